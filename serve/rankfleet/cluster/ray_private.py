"""The private parts of Ray that Rankfleet uses, all in one place, each with the public way it waits for.

Ray may change them in any release, so pyproject.toml keeps Ray below the next minor version, and
tests/unit/test_ray_private.py checks that each part exists with the signature used here.

Two parts need no call and stand where they are used:

- `RAY_SERVE_HAPROXY_RETRY_ON` and `RAY_SERVE_HAPROXY_BALANCE_ALGORITHM` (cluster/environment.py): Serve writes their
  values into HAProxy's configuration as they are, so that further options can stand behind the first, and a further
  section behind the second, which ends its own. Public way: settings for `option http-buffer-request` and
  `tune.sndbuf.client`.
- `DeploymentID` (cluster/autoscaling_policy.py): the type of the keys that Serve gives to a policy and takes back,
  named in annotations only. Public way: an export beside `ray.serve.config.AutoscalingContext`.

Nothing here imports Ray before it is called: Ray reads its settings from the environment when it is first imported.
"""

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from ray.serve.request_router import RequestRouter


def controller_client() -> Any:
    """Serve's client for the controller of this cluster; None if Serve does not run there. Its `deploy_apps` hands over
    a whole config.

    Public way: `serve deploy`, which needs Ray's dashboard; `serve.run` would restart every replica.
    """
    from ray.serve.context import _get_global_client

    return _get_global_client(raise_if_no_controller_running=False)


def start_handle(handle: "DeploymentHandle") -> None:
    """Make a handle follow its deployment's replicas now, and not only from its first request on.

    Public way: none; a handle is otherwise started by `options()` or `remote()`.
    """
    if not handle.is_initialized:
        handle._init()


def deployment_of(router: "RequestRouter") -> str:
    """Name of the deployment whose requests a request router routes.

    Public way: a property beside `RequestRouter.app_name`.
    """
    return str(router._deployment_id.name)


def own_replica() -> str:
    """Name of the replica in whose process this runs, as `living_replicas` has it.

    Public way: `ReplicaContext.replica_id`, whose class is private.
    """
    from ray import serve

    return str(serve.get_replica_context().replica_id.to_full_id_str())


def living_replicas() -> set[str]:
    """Names of all replicas of all deployments that start, run or stop, and of other named actors.

    Public way: `serve.status()` counts replicas without naming them. That actors of replicas have their names is known
    from Serve's source.
    """
    from ray.util import list_named_actors

    return {actor["name"] for actor in list_named_actors(all_namespaces=True)}


class ClusterStore:
    """Texts by key in the store of Ray's control service: the same for all processes of the cluster, and gone with it.

    Public way: an actor, which would be one more process to start and to keep alive.
    """

    _NAMESPACE = "rankfleet"

    def get(self, key: str) -> str | None:
        from ray.experimental.internal_kv import _internal_kv_get

        found = _internal_kv_get(key, namespace=self._NAMESPACE)
        return None if found is None else found.decode()

    def put(self, key: str, value: str) -> None:
        """Store a value unless the key has one."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(key, value, overwrite=False, namespace=self._NAMESPACE)

    def set(self, key: str, value: str) -> None:
        """Store a value in place of the one that the key may have."""
        from ray.experimental.internal_kv import _internal_kv_put

        _internal_kv_put(key, value, overwrite=True, namespace=self._NAMESPACE)

    def delete(self, key: str) -> None:
        from ray.experimental.internal_kv import _internal_kv_del

        _internal_kv_del(key, namespace=self._NAMESPACE)

    def keys(self, prefix: str) -> list[str]:
        from ray.experimental.internal_kv import _internal_kv_list

        return [key.decode() for key in _internal_kv_list(prefix, namespace=self._NAMESPACE)]


def logs_folder() -> str | None:
    """Where the cluster that this process has started writes its logs; None if it has started none.

    Public way: none without Ray's dashboard.
    """
    node = getattr(sys.modules.get("ray._private.worker"), "_global_node", None)
    return str(node.get_logs_dir_path()) if node else None
