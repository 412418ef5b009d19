"""The description of a cluster: devices, each a SoC of its own with its own memory, and the links that join them.

A cluster file is YAML and refers to SoC files, it does not repeat them. `catalog.load_cluster` checks it and refuses
it with `file:line:column`. Devices of one entry are equal; so are the links between any two of them.

A link of any kind but `wifi` gives each device that it joins one port out and one port in, at the link's rate, and
nothing else limits it: a switch that does not block, or wires from neighbour to neighbour. Over `wifi` one device
sends at a time. On a `mesh_noc` neighbours in the pipeline are neighbours on the mesh (a snake through it), so that a
message takes one hop.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from cosoc.sim.files.mending import WHOLE, Mended
from cosoc.sim.model.soc import FromList, Model, Name
from cosoc.sim.model.units import (
    BurstBytes,
    BytesPerSecond,
    BytesPerSecondOr0,
    Devices,
    Items,
    Nanoseconds,
    PicojoulesPerByte,
    Watts,
)

LinkKind = Literal["ethernet_switch", "wifi", "point_to_point", "pcie", "hypertransport", "mesh_noc"]
LINK_KINDS: tuple[LinkKind, ...] = get_args(LinkKind)
SHARED: tuple[LinkKind, ...] = ("wifi",)  # kinds on which all messages share one medium


class Device(Model):
    """`count` equal devices. What its processor spends to send or to receive (serialisation and copies) keeps it from
    computing."""

    soc: str  # a built-in SoC, or a SoC file
    count: Devices = 1  # equal devices of this entry
    set: dict[str, str] = {}  # overrides of the SoC's values, by dotted path
    message_ns: Nanoseconds = 0  # of its processor, to send or receive a message
    copy_bytes_per_s: BytesPerSecondOr0 = 0  # of its processor, for the bytes of a message; 0: they take no time of it
    queue_items: Items = 2  # that may wait at its input, the one that it works on included
    # of the board that it is on, where the energy of its SoC stops at a chip and others' does not
    carrier_w: Watts = 0.0

    @property
    def kind(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Which SoC it is: entries that agree in it are the same one."""
        return self.soc, tuple(sorted(self.set.items()))


class NetworkLink(Model):
    """A link between devices; the module docstring has what each kind shares."""

    kind: LinkKind  # what is shared: nothing but ports, a medium, or a mesh's wires
    between: Annotated[tuple[Name, ...], FromList] = Field(min_length=1)  # entries of devices that it joins
    bytes_per_s: BytesPerSecond  # of each port, or of the medium
    latency_ns: Nanoseconds  # from the end of a message at the sender to its end at the receiver
    message_ns: Nanoseconds = 0  # for which a port is held with every message, beside its bytes
    burst_bytes: BurstBytes  # what a message is sent in
    energy_pj_per_byte: PicojoulesPerByte = 0.0  # of a byte that goes over it

    @property
    def shared(self) -> bool:
        return self.kind in SHARED


class Cluster(Model):
    """A whole cluster."""

    name: Name  # by which results call it
    description: str = ""  # one line, for people
    devices: dict[Name, Device] = Field(min_length=1)  # entries of equal devices by name
    links: dict[Name, NetworkLink]  # by name

    def joins(self, a: str, b: str) -> str | None:
        """The name of the link between a device of entry `a` and one of entry `b`; None where there is none."""
        for name, link in self.links.items():
            if a in link.between and b in link.between:
                return name
        return None

    def problems(self, mended: Mended = WHOLE) -> list[tuple[tuple[str | int, ...], str]]:
        """What does not hang together, as (path in the file, what was found and what would be right). mended: what
        the file has otherwise; what may follow from that is left out."""
        out: list[tuple[tuple[str | int, ...], str]] = []
        pairs: dict[tuple[str, str], str] = {}
        for name, link in self.links.items():
            for i, device in enumerate(link.between):
                at = ("links", name, "between", i)
                if device not in self.devices and not mended.lacks("devices", device):
                    out.append((at, f"no device named {device!r}; there is {', '.join(self.devices)}"))
                if device in link.between[:i]:
                    out.append((at, f"{device} is named twice; name each device once"))
            ends = sorted(set(link.between))
            for a, b in ((a, b) for a in ends for b in ends if a <= b):
                other = pairs.setdefault((a, b), name)
                if other != name:
                    text = f"joins {a} and {b}, which {other} does already; keep one link between two devices"
                    out.append((("links", name), text))
        media = [name for name, link in self.links.items() if link.shared]
        if len(media) > 1:
            out.append((("links", media[1]), f"a second shared medium beside {media[0]}; at most one is supported"))
        if any(place[0] == "links" for place, _ in out) or mended.entries("links") or mended.names:
            return out  # what leads nowhere may follow
        return out + self._unreachable()

    def _unreachable(self) -> list[tuple[tuple[str | int, ...], str]]:
        """Devices to which no chain of links leads from the first."""
        names = list(self.devices)
        reached, todo = {names[0]}, [names[0]]
        while todo:
            at = todo.pop()
            found = [b for b in names if b not in reached and self.joins(at, b)]
            reached.update(found)
            todo += found
        out: list[tuple[tuple[str | int, ...], str]] = []
        for name, device in self.devices.items():
            if name not in reached:
                out.append((("devices", name), f"no chain of links leads here from {names[0]}; name it in a link"))
            elif device.count > 1 and not any(name in link.between for link in self.links.values()):
                out.append((("devices", name), f"{device.count} devices that no link joins; name them in a link"))
        return out


__all__ = ["LINK_KINDS", "SHARED", "Cluster", "Device", "LinkKind", "NetworkLink"]
