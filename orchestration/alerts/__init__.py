"""Who is told, once, that something has broken, and that it is well again."""
