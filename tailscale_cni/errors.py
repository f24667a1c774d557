"""Every error that a person can meet: its code, its sentence, its hint.

The class *is* the error. Its docstring is the sentence, with the names of the values that make it
concrete in braces; ``hint`` says what to do now; ``code`` is what CNI prints: below 100 the CNI
specification's (section "Error"), from 100 on ours.

This module imports nothing of ours.
"""

from __future__ import annotations

from typing import ClassVar

SHOWN = 200
"""How many characters of a foreign value an error shows."""


def show(value: object) -> str:
    """A foreign value as it may be printed: no control characters, no bidirectional tricks, cut."""
    text = ascii(value) if isinstance(value, str) else ascii(str(value))[1:-1]
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"


class Error(Exception):
    """{what}"""

    code: ClassVar[int] = 100
    hint: ClassVar[str] = ""

    def __init__(self, **values: object) -> None:
        """Values fill the sentence's and the hint's braces. Foreign ones are given through ``show``."""
        self.values = values
        super().__init__(self.sentence)

    @property
    def sentence(self) -> str:
        """What happened, to what."""
        return " ".join((type(self).__doc__ or "").split()).format(**self.values)

    @property
    def advice(self) -> str:
        """What to do now."""
        return self.hint.format(**self.values)


class IncompatibleVersion(Error):
    """CNI version {version} is not supported"""

    code = 1
    hint = "This plugin speaks {supported}; set one of them as cniVersion of the network list."


class VerbTooNew(Error):
    """CNI version {version} has no {verb}: it came with {since}"""

    code = 1
    hint = "Set {since} or a newer one as cniVersion of the network list."


class UnsupportedField(Error):
    """{where}: {key}: the value {value} is not supported"""

    code = 2
    hint = "Expected {expected}."


class UnknownContainer(Error):
    """container {container_id} is not known here"""

    code = 3
    hint = "The pod should be a node and is none: it was added before the plugin was installed. Restart it."


class BadEnvironment(Error):
    """environment variables are missing or invalid: {variables}"""

    code = 4
    hint = "{reasons}"


class InputOutput(Error):
    """{what}: {reason}"""

    code = 5
    hint = "Look at the disk and the permissions of {path}."


class Undecodable(Error):
    """the network configuration on standard input cannot be read: {reason}"""

    code = 6
    hint = "It must be one JSON object in UTF-8, as the CNI specification describes it."


class InvalidConfiguration(Error):
    """{where}: {key}: {reason}"""

    code = 7
    hint = "{expected}"


class MissingPrevResult(Error):
    """there is no prevResult: no plugin ran before this one"""

    code = 7
    hint = (
        "tailscale-cni is a chained plugin: list it after the primary one; 'tailscale-cni install' does it."
    )


class InvalidNetns(Error):
    """{path} is not a network namespace that a pod can have: {reason}"""

    code = 8
    hint = "CNI_NETNS must be the path of the pod's own network namespace."


class Busy(Error):
    """another call for {what} has not ended within {seconds:.0f} s"""

    code = 11
    hint = "The runtime tries again. If this stays, look for a hanging tailscale-cni process on the host."


class Interrupted(Error):
    """the call was interrupted by a signal"""

    code = 11
    hint = "The runtime tries again by itself."


class NetworkChanged(Error):
    """{pod}: the primary network's list has changed, and this call was made by the list of before"""

    code = 11
    hint = "The runtime tries again by itself, with the list of now."


class NotConnected(Error):
    """{pod} must not start off the tailnet, and is not connected after {seconds:g} s: {state}"""

    code = 11
    hint = "It is annotated tailscale.com/required. {advice}"


class ControlUnavailable(Error):
    """{pod}: the control plane {url} cannot be used now: {reason}"""

    code = 11
    hint = "{advice}"

    @property
    def again(self) -> float:
        """Seconds until it may be asked again; 0 if it has not said."""
        again = self.values.get("again")
        return again if isinstance(again, float) else 0.0


class NotAvailable(Error):
    """tailscale-cni cannot enrol pods on this host: {reason}"""

    code = 50
    hint = "{advice}"


class Internal(Error):
    """unexpected {kind}: {reason}"""

    code = 100
    hint = "This is a defect of tailscale-cni. Please report it with the line that it logged."


class InvalidAnnotation(Error):
    """{pod}: annotation {annotation}={value} is not valid: expected {expected}"""

    code = 101
    hint = "Mend the annotation; the pod starts at the next try. docs/annotations.md lists them all."


class UnsupportedAnnotation(Error):
    """{pod}: annotation {annotation}={value} is not supported by this version"""

    code = 102
    hint = "Remove the annotation, or install a version that has the feature."


class NoTun(Error):
    """{pod}: a TUN interface cannot be made: {reason}"""

    code = 103
    hint = "The host's kernel must have the tun module (modprobe tun) and /dev/net/tun must exist."


class NoFirewall(Error):
    """{what}: this kernel has no nf_tables ({reason})"""

    code = 104
    hint = "modprobe nf_tables; or set antiSpoofing: false, which lets neighbours forge tailnet addresses."


class NetworkFailed(Error):
    """{what}: {reason}"""

    code = 105
    hint = (
        "The pod's network could not be configured. The runtime tries again; if it stays, please report it."
    )


class NoAuthKey(Error):
    """there is no auth key: {reason}"""

    code = 106
    hint = "{advice}"


class WorkerFailed(Error):
    """{pod}: the node's processes could not be started: {reason}"""

    code = 107
    hint = "Look at {log}."


class NotUpgraded(Error):
    """{pod} does not come back as a node with this version, within {seconds:g} s"""

    code = 112
    hint = (
        "The nodes that have another one keep that. Look at {log}, and run 'tailscale-cni upgrade' again when it is mended; "
        "or go back: run 'install' of the version before."
    )


class AnotherVersion(Error):
    """{pod}: {path}, which starts its node, is another version than this file"""

    code = 116
    hint = "Run 'install' of this file, which puts it there and upgrades; or 'upgrade' of that one; or start the pod anew."


class UnsafeDirectory(Error):
    """{path} is not safe to keep state in: {reason}"""

    code = 108
    hint = "It must be root's, and nobody else's to write to: 'chown root: {path}; chmod go-w {path}'."


class CheckFailed(Error):
    """{pod}: {findings}"""

    code = 109
    hint = "Something changed the pod's network after it was set up. Deleting the pod makes it anew."


class DeletedMeanwhile(Error):
    """{pod}: the container was deleted while it was being added"""

    code = 110
    hint = "Nothing is left of it. The runtime decides whether it adds the pod again."


class NothingFree(Error):
    """all {what} from {first} to {last} are taken"""

    code = 111
    hint = "Give more of them with {key} in the host's configuration, or remove pods."


class NoPrimary(Error):
    """{directory} has no network list that tailscale-cni could follow: {reason}"""

    code = 113
    hint = (
        "Install a primary CNI (flannel, calico, cilium, …) first, or name its directory with --cni-conf-dir."
    )


class LocalApiFailed(Error):
    """the node's LocalAPI does not answer: {reason}"""

    code = 114
    hint = "The worker may be restarting. Look at its log ({log})."


class AlreadyNode(Error):
    """{pod} is a node already, through its interface {ifname}"""

    code = 117
    hint = "A pod has one tailnet interface: chain tailscale-cni into one of its networks only."


class NodeDeleted(Error):
    """{pod}: its node was deleted from the tailnet, and is not registered anew (onDeleted is stop)"""

    code = 118
    hint = "Delete the pod: the one that takes its place is a new node. With onDeleted: register, a node comes back by itself."


class IdentityInUse(Error):
    """{identity} is not forgotten: {pod} is that node now"""

    code = 119
    hint = "Delete the pod, or the workload that makes it, and forget it then."


class NoSuchIdentity(Error):
    """no identity {identity} is kept on this host"""

    code = 123
    hint = "{advice}"


class UnreadableState(Error):
    """{path} cannot be read as state of this plugin: {reason}"""

    code = 115
    hint = "Remove it; it is written anew."


class NotPermitted(Error):
    """{pod}: annotation {annotation}={value} is not permitted: pods of namespace {namespace} may not ask for {refused}"""

    code = 120
    hint = "Ask for less; or an admin of the host allows it with '{line}' in {where}. docs/annotations.md says more."


class BadKubeconfig(Error):
    """the kubeconfig {path} cannot be used: {reason}"""

    code = 130
    hint = "{advice}"


class KubernetesFailed(Error):
    """the Kubernetes API gives no answer: {reason}"""

    code = 131
    hint = "Most pods start without it, by what is known. docs/namespaces.md says what the kubeconfig must allow."


class KubernetesForbids(KubernetesFailed):
    """the Kubernetes API does not allow it: {reason}"""

    code = 132
    hint = (
        "Apply manifests/rbac.yaml of this version; docs/namespaces.md says what the kubeconfig must allow."
    )


class IdentityUnknown(Error):
    """{pod} is to be the node that it was, and whether another host still runs that one cannot be found out: {reason}"""

    code = 11
    hint = "The runtime tries again by itself. Is the Kubernetes API up, and does {kubeconfig} reach it? docs/identities.md says more."


class KeyHasItsTags(Error):
    """{pod}: the node should have the tags {tags}, and the static auth key gives it {given}"""

    code = 121
    hint = (
        "A static key's tags were chosen when it was made: 'tags' in the host's configuration says which they are. "
        "Ask for none (tailscale.com/tags, autoNamespaceTag), or let the control plane make a key per pod."
    )


class ControlRefused(Error):
    """{pod}: the control plane {url} refuses: {reason}"""

    code = 122
    hint = "{advice}"
