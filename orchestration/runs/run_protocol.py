"""How Dagster asks a host for a run, to end it, and whether it has it: StartRun and the like.

The private names of Dagster that several hosts need, beside those of `dagster_internals`.
"""

import json
from collections.abc import Mapping
from typing import Any

from dagster import DagsterInstance, DagsterRun, deserialize_value, serialize_value
from dagster import __version__ as VERSION
from dagster._core.errors import DagsterUserCodeUnreachableError
from dagster._core.storage.tags import GRPC_INFO_TAG as GRPC_INFO_TAG

START_RUN = "StartRun"
CANCEL_EXECUTION = "CancelExecution"
CAN_CANCEL_EXECUTION = "CanCancelExecution"
RUN_METHODS = (START_RUN, CANCEL_EXECUTION, CAN_CANCEL_EXECUTION)
# A host that is there answers at once.
START_SECONDS = 20.0
ASK_SECONDS = 3.0
# No proxy is in front of a host of one's own.
OPTIONS = [("grpc.enable_http_proxy", 0), ("grpc.max_send_message_length", -1)]


class HostAway(Exception):
    """Why a host cannot be asked."""


# What a host asks others for


def start_elsewhere(instance: DagsterInstance, run: DagsterRun, *, socket: str, host: str) -> None:
    """Has the run started by the host, `host:port`, that the broker reaches on the socket.

    Raises DagsterUserCodeUnreachableError where that cannot be reached, upon which Dagster tries
    again later, and RuntimeError where it refuses.
    """
    from dagster._grpc.__generated__ import dagster_api_pb2
    from dagster._grpc.types import ExecuteExternalJobArgs, StartRunResult

    instance.add_run_tags(run.run_id, {GRPC_INFO_TAG: grpc_info(host)})
    assert run.remote_job_origin
    arguments = ExecuteExternalJobArgs(
        job_origin=run.remote_job_origin, run_id=run.run_id, instance_ref=instance.get_ref()
    )
    request = dagster_api_pb2.StartRunRequest(
        serialized_execute_run_args=serialize_value(arguments)
    )
    try:
        reply = _asked(f"unix:{socket}", START_RUN, request, START_SECONDS)
    except HostAway as error:
        raise DagsterUserCodeUnreachableError(f"The run waits for its host: {error}") from None
    result = deserialize_value(reply.serialized_start_run_result, StartRunResult)
    if not result.success:
        why = result.message or str(result.serializable_error_info)
        raise RuntimeError(f"{host} has not started the run: {why}")


def grpc_info(host: str) -> str:
    """The value of the tag by which Dagster finds the server of a run, at `host:port`."""
    name, _, port = host.rpartition(":")
    return json.dumps({"host": name, "port": int(port)})


def host_of(tags: Mapping[str, str]) -> str | None:
    """The `host:port` of the server that has started the run of those tags, where it has one."""
    info = json.loads(tags.get(GRPC_INFO_TAG) or "{}")
    return f"{info['host']}:{info['port']}" if info.get("port") else None


def runs_on(host: str, run_id: str) -> bool:
    """Whether the server at `host:port` has a process of the run. Raises HostAway."""
    from dagster._grpc.__generated__ import dagster_api_pb2
    from dagster._grpc.types import CanCancelExecutionRequest, CanCancelExecutionResult

    request = dagster_api_pb2.CanCancelExecutionRequest(
        serialized_can_cancel_execution_request=serialize_value(
            CanCancelExecutionRequest(run_id=run_id)
        )
    )
    reply = _asked(host, CAN_CANCEL_EXECUTION, request, ASK_SECONDS)
    answer = reply.serialized_can_cancel_execution_result
    return bool(deserialize_value(answer, CanCancelExecutionResult).can_cancel)


def cancel_on(host: str, run_id: str) -> bool:
    """Has the server at `host:port` end the run; False where it has none. Raises HostAway."""
    from dagster._grpc.__generated__ import dagster_api_pb2
    from dagster._grpc.types import CancelExecutionRequest, CancelExecutionResult

    request = dagster_api_pb2.CancelExecutionRequest(
        serialized_cancel_execution_request=serialize_value(CancelExecutionRequest(run_id=run_id))
    )
    reply = _asked(host, CANCEL_EXECUTION, request, ASK_SECONDS)
    return bool(
        deserialize_value(reply.serialized_cancel_execution_result, CancelExecutionResult).success
    )


def _asked(place: str, method: str, request: Any, seconds: float) -> Any:
    # Not wherever Dagster is imported, since it takes time.
    import grpc
    from dagster._grpc.__generated__.dagster_api_pb2_grpc import DagsterApiStub

    with grpc.insecure_channel(place, options=OPTIONS) as channel:
        stub: Any = DagsterApiStub(channel)  # type: ignore[no-untyped-call]
        try:
            return getattr(stub, method)(request, timeout=seconds)
        except grpc.RpcError as error:
            raise HostAway(error.details() or error.code().name) from None


# What a host is asked by others


def started_run(request: bytes, listed: bytes) -> tuple[str, list[str]]:
    """The id of the run that is to be started, and the arguments of `dagster` that execute it.

    `listed` is what the location answers to ListRepositories. The run finds its instance by this
    host's own DAGSTER_HOME: that of the other names folders of that host. Raises ValueError where
    the request is none that can be done.
    """
    from dagster._core.origin import JobPythonOrigin, RepositoryPythonOrigin
    from dagster._grpc.__generated__ import dagster_api_pb2
    from dagster._grpc.types import ExecuteExternalJobArgs, ExecuteRunArgs

    text = dagster_api_pb2.StartRunRequest.FromString(request).serialized_execute_run_args
    try:
        arguments = deserialize_value(text, ExecuteExternalJobArgs)
    except Exception as error:
        # Whatever another release of Dagster has there.
        raise ValueError(f"not understood by Dagster {VERSION}: {error}") from error
    found: Any = deserialize_value(_listed(listed).serialized_list_repositories_response_or_error)
    repository = arguments.job_origin.repository_origin.repository_name
    if repository not in getattr(found, "repository_code_pointer_dict", {}):
        raise ValueError(f"there is no repository {repository} at the moment")
    origin = RepositoryPythonOrigin(
        executable_path=found.executable_path or "python",
        code_pointer=found.repository_code_pointer_dict[repository],
    )
    command = ExecuteRunArgs(
        job_origin=JobPythonOrigin(arguments.job_origin.job_name, origin),
        run_id=arguments.run_id,
        instance_ref=None,
    ).get_command_args()
    return arguments.run_id, ["dagster", *command[command.index("api") :]]


def start_run_answer(problem: str | None) -> bytes:
    """What a server answers that has started a run, or has not."""
    from dagster._grpc.__generated__ import dagster_api_pb2
    from dagster._grpc.types import StartRunResult

    result = StartRunResult(success=not problem, message=problem, serializable_error_info=None)
    reply = dagster_api_pb2.StartRunReply(serialized_start_run_result=serialize_value(result))
    return bytes(reply.SerializeToString())


def run_asked_about(method: str, request: bytes) -> str:
    """The id of the run that is to be cancelled, or is asked after."""
    from dagster._grpc.__generated__ import dagster_api_pb2

    if method == CANCEL_EXECUTION:
        cancel = dagster_api_pb2.CancelExecutionRequest.FromString(request)
        asked: Any = deserialize_value(cancel.serialized_cancel_execution_request)
    else:
        can = dagster_api_pb2.CanCancelExecutionRequest.FromString(request)
        asked = deserialize_value(can.serialized_can_cancel_execution_request)
    return str(asked.run_id)


def run_answer(method: str, is_running: bool) -> bytes:
    """What a server answers that was to cancel a run, or is asked after it."""
    from dagster._grpc.__generated__ import dagster_api_pb2
    from dagster._grpc.types import CanCancelExecutionResult, CancelExecutionResult

    if method == CANCEL_EXECUTION:
        result = CancelExecutionResult(
            success=is_running, message=None, serializable_error_info=None
        )
        cancelled = dagster_api_pb2.CancelExecutionReply(
            serialized_cancel_execution_result=serialize_value(result)
        )
        return bytes(cancelled.SerializeToString())
    can = dagster_api_pb2.CanCancelExecutionReply(
        serialized_can_cancel_execution_result=serialize_value(
            CanCancelExecutionResult(can_cancel=is_running)
        )
    )
    return bytes(can.SerializeToString())


# What is known of a location elsewhere


def full_name(method: str) -> str:
    """The method as gRPC calls it."""
    return f"/api.DagsterApi/{method}"


def server_id_in(reply: bytes) -> str:
    """The id in an answer to GetServerId."""
    from dagster._grpc.__generated__ import dagster_api_pb2

    return str(dagster_api_pb2.GetServerIdReply.FromString(reply).server_id)


def repositories_in(listed: bytes) -> list[str]:
    """The repositories in an answer to ListRepositories; none where it says why there are none."""
    found: Any = deserialize_value(_listed(listed).serialized_list_repositories_response_or_error)
    return [symbol.repository_name for symbol in getattr(found, "repository_symbols", ())]


def other_release(listed: bytes) -> str | None:
    """Says which release of Dagster has answered ListRepositories, where it is not this one."""
    # Not by what Dagster makes of it, which may fail just then.
    data = json.loads(_listed(listed).serialized_list_repositories_response_or_error)
    versions = data.get("dagster_library_versions")
    items = versions.get("__mapping_items__", versions) if isinstance(versions, dict) else {}
    theirs = dict(items).get("dagster") if items else None
    if theirs in (None, VERSION):
        return None
    return f"runs Dagster {theirs}, and this host {VERSION}: install the same on both."


def _listed(reply: bytes) -> Any:
    from dagster._grpc.__generated__ import dagster_api_pb2

    return dagster_api_pb2.ListRepositoriesReply.FromString(reply)
