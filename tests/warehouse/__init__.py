"""PostgreSQL: connections, columns, upkeep, refused rows."""
