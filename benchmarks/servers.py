"""The PostgreSQL of a benchmark, as the settings name it."""

from pipelines.settings.settings import PostgresSettings


def settings_of(server: PostgresSettings) -> dict[str, str]:
    """What a process has in its environment to use it."""
    return {
        "PG_HOST": server.host,
        "PG_PORT": str(server.port),
        "PG_DATABASE": server.database,
        "PG_USER": server.user,
        "PG_PASSWORD": server.password,
    }
