"""Every error that a user can see: its code, its sentence and its hint.

The class is the error. Its docstring is the sentence, with the names of its values in braces. ``hint`` says what to do. ``code`` is the
CNI error code: codes below 100 are from the CNI specification (section "Error"), codes from 100 on are specific to this plugin.

This module imports no other module of this package.
"""

from __future__ import annotations

from typing import ClassVar

SHOWN = 200
"""The maximum number of characters of an untrusted value that an error shows."""


def show(value: object) -> str:
    """Return an untrusted value in printable form: ASCII, without control or bidirectional characters, at most ``SHOWN`` long."""
    text = ascii(value) if isinstance(value, str) else ascii(str(value))[1:-1]
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


class Error(Exception):
    """{what}"""

    code: ClassVar[int] = 100
    hint: ClassVar[str] = ""

    def __init__(self, **values: object) -> None:
        """``values`` fill the braces of the sentence and of the hint. Untrusted values must go through ``show`` first."""
        self.values = values
        super().__init__(self.sentence)

    @property
    def sentence(self) -> str:
        """What is wrong."""
        return " ".join((type(self).__doc__ or "").split()).format(**self.values)

    @property
    def advice(self) -> str:
        """What to do about it."""
        return self.hint.format(**self.values)


class IncompatibleVersion(Error):
    """CNI version {version} is not supported"""

    code = 1
    hint = "Set cniVersion in the network list to one of {supported}."


class VerbTooNew(Error):
    """{verb} is not defined in CNI version {version}: it was added in {since}"""

    code = 1
    hint = "Set cniVersion in the network list to {since} or newer."


class UnsupportedField(Error):
    """{where}: {key}: the value {value} is not supported"""

    code = 2
    hint = "Expected {expected}."


class UnknownContainer(Error):
    """container {container_id} is not a Tailscale node, but its pod should be"""

    code = 3
    hint = "The pod was started before the plugin was installed. Delete the pod, so that its workload creates it again."


class BadEnvironment(Error):
    """environment variables are missing or invalid: {variables}"""

    code = 4
    hint = "{reasons}"


class InputOutput(Error):
    """{what}: {reason}"""

    code = 5
    hint = "Check the disk ('df', 'findmnt -T') and the permissions of {path}."


class Undecodable(Error):
    """the network configuration on standard input cannot be read: {reason}"""

    code = 6
    hint = "The input must be one JSON object in UTF-8, as described in the CNI specification."


class InvalidConfiguration(Error):
    """{where}: {key}: {reason}"""

    code = 7
    hint = "{expected}"


class MissingPrevResult(Error):
    """prevResult is missing: no plugin ran before this one"""

    code = 7
    hint = (
        "tailscale-cni is a chained plugin: list it after the primary one. 'tailscale-cni install' does this."
    )


class InvalidNetns(Error):
    """{path} is not a valid network namespace for a pod: {reason}"""

    code = 8
    hint = "Set CNI_NETNS to the path of the pod's own network namespace."


class Busy(Error):
    """another call for {what} did not finish within {seconds:.0f} s"""

    code = 11
    hint = "The runtime retries. If the error persists, look for a hanging process with 'pgrep -af tailscale-cni' on the host."


class Interrupted(Error):
    """the call was interrupted by a signal"""

    code = 11
    hint = "The runtime retries automatically."


class NetworkChanged(Error):
    """{pod}: the primary network list has changed, and this call used the previous one"""

    code = 11
    hint = "The runtime retries automatically with the new list."


class NotConnected(Error):
    """{pod} requires the tailnet, and its node is not connected after {seconds:g} s: {state}"""

    code = 11
    hint = "The pod is annotated tailscale.com/required. {advice}"


class ControlUnavailable(Error):
    """{pod}: the control plane {url} is unavailable: {reason}"""

    code = 11
    hint = "{advice}"

    @property
    def again(self) -> float:
        """Seconds until the control plane accepts another request; 0 if it did not say."""
        again = self.values.get("again")
        return again if isinstance(again, float) else 0.0


class NotAvailable(Error):
    """tailscale-cni cannot enroll pods on this host: {reason}"""

    code = 50
    hint = "{advice}"


class Internal(Error):
    """unexpected {kind}: {reason}"""

    code = 100
    hint = "This is a bug in tailscale-cni. Please report it, and include the log line."


class InvalidAnnotation(Error):
    """{pod}: annotation {annotation}={value} is not valid: expected {expected}"""

    code = 101
    hint = "Correct the annotation ('kubectl annotate --overwrite pod', or the workload's template); the pod starts at the next retry."


class UnsupportedAnnotation(Error):
    """{pod}: annotation {annotation}={value} is not supported by this version"""

    code = 102
    hint = "Remove the annotation, or install a version of tailscale-cni that supports it."


class NoTun(Error):
    """{pod}: the TUN interface cannot be created: {reason}"""

    code = 103
    hint = "Run 'modprobe tun' on the host, and check that /dev/net/tun exists."


class NoFirewall(Error):
    """{what}: the kernel does not support nf_tables ({reason})"""

    code = 104
    hint = "Run 'modprobe nf_tables' on the host, or set antiSpoofing: false, which allows other pods to forge tailnet addresses."


class NetworkFailed(Error):
    """{what}: {reason}"""

    code = 105
    hint = "The pod's network could not be configured. The runtime retries. If the error persists, please report it with the log line."


class NoAuthKey(Error):
    """no auth key is available: {reason}"""

    code = 106
    hint = "{advice}"


class WorkerFailed(Error):
    """{pod}: the worker could not be started: {reason}"""

    code = 107
    hint = "See the node's log, {log}."


class NotUpgraded(Error):
    """{pod}: its node did not reconnect within {seconds:g} s after the upgrade to this version"""

    code = 112
    hint = (
        "The remaining nodes keep their version. See {log}, fix the cause and run 'tailscale-cni upgrade' again, "
        "or go back: run 'install' of the previous version."
    )


class AnotherVersion(Error):
    """{pod}: its node is started by {path}, which is another version than this file"""

    code = 116
    hint = "Run 'install' of this file to replace and upgrade it, run '{path} upgrade', or delete the pod so that it is created again."


class UnsafeDirectory(Error):
    """the state directory {path} is not safe: {reason}"""

    code = 108
    hint = "Only root may own it and write to it: 'chown root: {path}; chmod go-w {path}'."


class CheckFailed(Error):
    """{pod}: {findings}"""

    code = 109
    hint = "The pod's network was changed after setup. Delete the pod to set it up again."


class DeletedMeanwhile(Error):
    """{pod}: the container was deleted while it was being added"""

    code = 110
    hint = "Nothing of the node is left. The runtime decides whether to add the pod again."


class NothingFree(Error):
    """all {what} from {first} to {last} are in use"""

    code = 111
    hint = "Change {key} in the host's configuration, or remove pods."


class NoPrimary(Error):
    """{directory} has no network list of a primary CNI plugin: {reason}"""

    code = 113
    hint = "Install a primary CNI plugin (flannel, calico, cilium, …) first, or pass its directory with --cni-conf-dir."


class LocalApiFailed(Error):
    """the node's LocalAPI does not respond: {reason}"""

    code = 114
    hint = "The worker may be restarting. See its log, {log}."


class AlreadyNode(Error):
    """{pod} is already a node, with the interface {ifname}"""

    code = 117
    hint = "A pod can have one tailnet interface. Chain tailscale-cni into only one of the pod's networks."


class NodeDeleted(Error):
    """{pod}: its node was deleted from the tailnet and is not registered again (onDeleted is stop)"""

    code = 118
    hint = "Delete the pod: its replacement is a new node. With onDeleted: register, a deleted node registers again automatically."


class IdentityInUse(Error):
    """{identity} cannot be forgotten: {pod} is using this identity"""

    code = 119
    hint = "Delete the pod or its workload first, then run 'tailscale-cni identities forget {identity}'."


class NoSuchIdentity(Error):
    """{identity} does not match exactly one retained identity of this host"""

    code = 123
    hint = "{advice}"


class UnreadableState(Error):
    """{path} is not valid state of this plugin: {reason}"""

    code = 115
    hint = "Remove it; it is written again."


class NotPermitted(Error):
    """{pod}: annotation {annotation}={value} is not permitted: pods of namespace {namespace} may not ask for {refused}"""

    code = 120
    hint = "Change the annotation, or allow it on the host with '{line}' in {where}. See docs/annotations.md."


class BadKubeconfig(Error):
    """the kubeconfig {path} cannot be used: {reason}"""

    code = 130
    hint = "{advice}"


class KubernetesFailed(Error):
    """the Kubernetes API request failed: {reason}"""

    code = 131
    hint = "Most pods start without the API. Check it with 'kubectl get --raw /readyz'; docs/namespaces.md lists the permissions."


class KubernetesForbids(KubernetesFailed):
    """the Kubernetes API denied the request: {reason}"""

    code = 132
    hint = "Run 'kubectl apply -f manifests/rbac.yaml' with this version's file. docs/namespaces.md lists the permissions."


class IdentityUnknown(Error):
    """{pod} cannot get its identity, because another host may still run it: {reason}"""

    code = 11
    hint = "The runtime retries automatically. Check that {kubeconfig} reaches the Kubernetes API. See docs/identities.md."


class KeyHasItsTags(Error):
    """{pod}: the node cannot have the tags {tags}, because the static auth key assigns {given}"""

    code = 121
    hint = (
        "A static auth key has fixed tags; list them in 'tags' in the host's configuration. Remove tailscale.com/tags "
        "and autoNamespaceTag, or set up an OAuth client or a Headscale API key, so that each pod gets its own auth key."
    )


class ControlRefused(Error):
    """{pod}: the control plane {url} refused the request: {reason}"""

    code = 122
    hint = "{advice}"
