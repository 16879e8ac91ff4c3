SELECT
    systems.name AS system,
    count(projects.project_id) AS projects,
    coalesce(sum(projects.planned_commitment), 0) AS planned_commitment
FROM library_systems AS systems
LEFT JOIN projects ON projects.agency = systems.agency
GROUP BY systems.name
ORDER BY systems.name
