"""From products.yml to the generated code locations and workspace.yaml."""
