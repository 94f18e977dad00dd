"""The settings of a server that takes JWTs."""

from collections.abc import Sequence

from composerd.settings.setting import Setting
from composerd.settings.values import claim_path, keys_place, nonempty, readable_file, role, role_of_value

JWT_SETTINGS: Sequence[Setting] = (
    Setting(
        "jwt_keys",
        keys_place,
        "URL or file of the keys (a JWK set) that JWTs are signed with. Requires --jwt-issuer and --jwt-audience.",
        repeatable=True,
    ),
    Setting("jwt_issuer", nonempty, "The issuer (iss) of the JWTs, exactly as they have it."),
    Setting("jwt_audience", nonempty, "The audience (aud) that a JWT has to be for."),
    Setting(
        "jwt_tenant_claim",
        claim_path,
        "Claim that names the tenant, with dots for a nested one; the first that is there counts.",
        without="none: nobody has a tenant",
        repeatable=True,
    ),
    Setting("jwt_role_claim", claim_path, "Claim that --jwt-role gives roles by: a text, or a list of texts."),
    Setting(
        "jwt_role",
        role_of_value,
        "VALUE=ROLE: who has VALUE in --jwt-role-claim has the role worker, submitter, viewer, admin or monitor; "
        "the first that fits counts.",
        repeatable=True,
    ),
    Setting("jwt_default_role", role, "Role of those to whom no --jwt-role gives one.", without="none: refused"),
    Setting(
        "jwt_acl",
        readable_file,
        "YAML file with patterns, of which the claims of a JWT have to match one, as osbuild-composer has it.",
    ),
)
"""The settings about JWTs. Without `jwt_keys`, none of them may be set."""
