"""The deeds of the story: each one as v1 and as v2 of the API record it. A table, nothing else.

v1 names its own actions, and has old and new values. v2 records the call of the public API: its method and path, and
the operation's summary as description. Some deeds are in one version alone: sign-ins in v2, script deployments and
the viewing of a key in v1. `{name}`, `{old}` and `{new}` stand for what was changed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

Values = Mapping[str, Any] | str


@dataclass(frozen=True)
class Deed:
    """An action, as both versions record it."""

    v1: str = ""
    """`action.type` and `resource.type`; empty: v1 does not record it."""
    v2: str = ""
    """Method, path, and the resource's product and type; empty: v2 does not record it."""
    summary: str = ""
    """The operation's summary in the public API reference: v2's `action.description`."""
    old: Values = field(default_factory=dict)
    new: Values = field(default_factory=dict)
    """A text is a plain value; more is JSON."""
    info: str = ""
    """v1's `action.info`, which some products have."""
    names: tuple[str, ...] = ("",)
    changes: tuple[tuple[str, str], ...] = (("", ""),)
    """Pairs of an old and a new value."""
    is_named: bool = False
    """True if the resource's id is its name."""

    @property
    def kind(self) -> str:
        """The type of the resource that it is done to: v2's, if v2 records it."""
        return (self.v2 or self.v1).split()[-1]

    @property
    def is_of_zone(self) -> bool:
        """True if it is done to a zone, not to the account."""
        return "{zone_id}" in self.v2 or self.v1.endswith(" zone")


_ORIGINS = tuple((f"192.0.2.{number}", f"192.0.2.{number + 1}") for number in range(10, 30, 3))
_HOSTS = ("www", "api", "shop", "assets", "checkout", "status", "mail", "staging")
_SERVICES = tuple(f"svc-{number}" for number in range(1, 25))
_RECORD = {"type": "A", "name": "{name}.{zone}", "proxied": True, "ttl": 1}
_OLD_RECORD, _NEW_RECORD = {**_RECORD, "content": "{old}"}, {**_RECORD, "content": "{new}"}
_RULE = {"description": "{name}", "expression": '(http.request.uri.path contains "/login")'}
_DNS = "/zones/{zone_id}/dns_records"
_RULES = "/zones/{zone_id}/rulesets/{ruleset_id}/rules"
_RULE_NAMES = ("block bad bots", "challenge sign-ins", "protect checkout", "limit the API")
_SCRIPTS = ("storefront", "cart-api", "image-resizer", "redirects")
_MEMBER_ROLES = (("Administrator Read Only", "Administrator"), ("DNS", "Firewall"))

DEEDS: Mapping[str, Deed] = {
    "sign in": Deed("", "POST /login user user", "LOGIN"),
    "dns add": Deed(
        "rec_add dns.record",
        f"POST {_DNS} dns_records dns_record",
        "Create DNS Record",
        new=_NEW_RECORD,
        names=_SERVICES,
        changes=_ORIGINS,
    ),
    "dns set": Deed(
        "rec_set dns.record",
        f"PATCH {_DNS}/{{id}} dns_records dns_record",
        "Update DNS Record",
        _OLD_RECORD,
        _NEW_RECORD,
        names=_HOSTS,
        changes=_ORIGINS,
    ),
    "dns del": Deed(
        "rec_del dns.record",
        f"DELETE {_DNS}/{{id}} dns_records dns_record",
        "Delete DNS Record",
        _OLD_RECORD,
        names=_SERVICES,
        changes=_ORIGINS,
    ),
    "setting": Deed(
        "change_setting zone",
        "PATCH /zones/{zone_id}/settings/{name} zone_settings zone_setting",
        "Edit zone setting",
        "{old}",
        "{new}",
        names=("security_level",),
        changes=(("medium", "high"), ("high", "medium"), ("medium", "under_attack"), ("under_attack", "medium")),
        is_named=True,
    ),
    "cache level": Deed(
        "change_setting zone",
        "PATCH /zones/{zone_id}/settings/{name} zone_settings zone_setting",
        "Edit zone setting",
        "{old}",
        "{new}",
        names=("browser_cache_ttl", "edge_cache_ttl"),
        changes=(("1800", "14400"), ("14400", "1800")),
        is_named=True,
    ),
    "purge": Deed(
        "purge zone",
        "POST /zones/{zone_id}/purge_cache cache cache",
        "Purge Cached Content",
        new={"files": ["https://{zone}/{name}"]},
        names=("index.html", "app.js", "prices.json"),
    ),
    "waf set": Deed(
        "update firewall.rule",
        f"PATCH {_RULES}/{{id}} rulesets ruleset_rule",
        "Update a zone ruleset rule",
        {**_RULE, "action": "{old}", "enabled": True},
        {**_RULE, "action": "{new}", "enabled": True},
        names=_RULE_NAMES,
        changes=(("log", "managed_challenge"), ("managed_challenge", "block"), ("block", "managed_challenge")),
    ),
    "waf off": Deed(
        "update firewall.rule",
        f"PATCH {_RULES}/{{id}} rulesets ruleset_rule",
        "Update a zone ruleset rule",
        {**_RULE, "action": "block", "enabled": True},
        {**_RULE, "action": "block", "enabled": False},
        names=_RULE_NAMES,
    ),
    "waf on": Deed(
        "update firewall.rule",
        f"PATCH {_RULES}/{{id}} rulesets ruleset_rule",
        "Update a zone ruleset rule",
        {**_RULE, "action": "block", "enabled": False},
        {**_RULE, "action": "block", "enabled": True},
        names=_RULE_NAMES,
    ),
    "allow address": Deed(
        "create firewall.access_rule",
        "POST /zones/{zone_id}/firewall/access_rules/rules firewall access_rule",
        "Create an IP Access rule",
        new={"mode": "whitelist", "configuration": {"target": "ip_range", "value": "{new}"}, "notes": "{name}"},
        names=("office",),
        changes=(("", "198.51.100.0/24"),),
    ),
    "disallow address": Deed(
        "delete firewall.access_rule",
        "DELETE /zones/{zone_id}/firewall/access_rules/rules/{id} firewall access_rule",
        "Delete an IP Access rule",
        {"mode": "whitelist", "configuration": {"target": "ip_range", "value": "{old}"}, "notes": "{name}"},
    ),
    "token make": Deed(
        "token_create account",
        "POST /user/tokens tokens token",
        "Create Token",
        new={"name": "{name}", "policies": [{"effect": "allow", "permission_groups": [{"name": "{new}"}]}]},
        names=("cache-purge", "preview-deploys", "dns-read"),
        changes=(("", "DNS Read"), ("", "Cache Purge")),
    ),
    "token roll": Deed(
        "token_roll account",
        "PUT /user/tokens/{id}/value tokens token",
        "Roll Token",
        names=("terraform-ci", "external-dns", "deploy-bot"),
    ),
    "token revoke": Deed(
        "token_revoke account",
        "DELETE /user/tokens/{id} tokens token",
        "Delete Token",
        {"name": "{name}"},
        names=("cache-purge", "preview-deploys"),
    ),
    "key view": Deed("API_key_view account"),
    "key rotate": Deed("rotate_API_key account"),
    "member add": Deed(
        "invite account.member",
        "POST /accounts/{account_id}/members members member",
        "Add Member",
        new={"email": "{name}", "roles": [{"name": "{new}"}], "status": "pending"},
        names=("new.colleague@example.com",),
        changes=(("", "Administrator Read Only"),),
    ),
    "member set": Deed(
        "update account.member",
        "PUT /accounts/{account_id}/members/{id} members member",
        "Update Member",
        {"email": "{name}", "roles": [{"name": "{old}"}]},
        {"email": "{name}", "roles": [{"name": "{new}"}]},
        names=("bob@example.com", "carol@example.com"),
        changes=_MEMBER_ROLES,
    ),
    "member remove": Deed(
        "remove account.member",
        "DELETE /accounts/{account_id}/members/{id} members member",
        "Remove Member",
        {"email": "{name}", "roles": [{"name": "{old}"}]},
        names=("former.colleague@example.com",),
        changes=(("Administrator", ""),),
    ),
    "log job make": Deed(
        "job_create logpush_job",
        "POST /zones/{zone_id}/logpush/jobs logpush logpush_job",
        "Create Logpush job",
        new={"name": "{name}", "dataset": "http_requests", "enabled": True},
        names=("to-archive",),
    ),
    "log job delete": Deed(
        "job_delete logpush_job",
        "DELETE /zones/{zone_id}/logpush/jobs/{id} logpush logpush_job",
        "Delete Logpush job",
        {"name": "{name}", "dataset": "http_requests", "enabled": True},
        names=("to-archive",),
    ),
    "script": Deed(
        "deploy worker.script", names=_SCRIPTS, new={"script_name": "{name}", "usage_model": "standard"}, is_named=True
    ),
    "secret": Deed(
        "",
        "PUT /accounts/{account_id}/workers/scripts/{name}/secrets workers worker_secret",
        "Add script secret",
        new={"name": "PAYMENT_KEY", "type": "secret_text"},
        names=_SCRIPTS,
        is_named=True,
    ),
    "kv put": Deed(
        "",
        "PUT /accounts/{account_id}/storage/kv/namespaces/{id}/values/{name} kv kv_value",
        "Write key-value pair with optional metadata",
        names=("prices", "feature-flags", "banner"),
        is_named=True,
    ),
    "bucket": Deed(
        "create r2.bucket",
        "POST /accounts/{account_id}/r2/buckets r2 r2_bucket",
        "Create Bucket",
        new={"name": "{name}"},
        info="CreateBucket",
        names=("uploads", "exports", "models"),
        is_named=True,
    ),
    "database": Deed(
        "create d1.database",
        "POST /accounts/{account_id}/d1/database d1 d1_database",
        "Create D1 Database",
        new={"database_name": "{name}"},
        info="CreateDatabase",
        names=("orders-test", "sessions"),
    ),
    "pages": Deed(
        "create pages.deployment",
        "POST /accounts/{account_id}/pages/projects/{name}/deployments pages pages_deployment",
        "Create deployment",
        names=("docs", "landing"),
        is_named=True,
    ),
    "pool": Deed(
        "update load_balancer.pool",
        "PATCH /accounts/{account_id}/load_balancers/pools/{id} load_balancers load_balancer_pool",
        "Patch Pool",
        {"name": "{name}", "origins": [{"address": "{old}", "enabled": True}]},
        {"name": "{name}", "origins": [{"address": "{new}", "enabled": True}]},
        names=("eu-origin", "us-origin"),
        changes=_ORIGINS,
    ),
    "tunnel": Deed(
        "update cfd_tunnel",
        "PUT /accounts/{account_id}/cfd_tunnel/{id}/configurations cfd_tunnel tunnel",
        "Put configuration",
        names=("warehouse-floor", "office"),
        new={"config": {"ingress": [{"hostname": "{name}.{zone}", "service": "http://localhost:8080"}]}},
    ),
    "access": Deed(
        "update access.policy",
        "PUT /accounts/{account_id}/access/policies/{id} access access_policy",
        "Update an Access reusable policy",
        {"name": "{name}", "decision": "allow", "session_duration": "{old}"},
        {"name": "{name}", "decision": "allow", "session_duration": "{new}"},
        names=("staff", "contractors"),
        changes=(("24h", "8h"), ("8h", "24h")),
    ),
    "certificate": Deed(
        "tls_settings_deployed zone", "PATCH /zones/{zone_id}/ssl ssl certificate_pack", "", new="{zone}"
    ),
}
