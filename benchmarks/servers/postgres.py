"""Names a benchmark's PostgreSQL as the settings do."""

from pipelines.settings.settings import PostgresSettings


def settings_of(server: PostgresSettings) -> dict[str, str]:
    """Returns the environment variables with which a process uses the server."""
    return {
        "PG_HOST": server.host,
        "PG_PORT": str(server.port),
        "PG_DATABASE": server.database,
        "PG_USER": server.user,
        "PG_PASSWORD": server.password,
    }
