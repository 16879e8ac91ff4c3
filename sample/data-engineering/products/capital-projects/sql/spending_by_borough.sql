SELECT
    borough,
    count(*) AS projects,
    sum(planned_commitment) AS planned_commitment
FROM projects
GROUP BY borough
ORDER BY borough
