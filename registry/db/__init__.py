"""The database: the tables, the transactions with the only commit (session), and the audit log."""
