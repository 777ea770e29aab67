"""The database: all tables on one page (models), and the only commit (session)."""
