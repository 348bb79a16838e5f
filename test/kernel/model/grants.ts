/**
 * The grants of a case, in the gate and in its twin alike. As in the daemon,
 * none is opened, or lives on, where a drop meets what it would carry.
 */
import { address, hostPrefix, prefix } from '../../../agent/core/net.ts';
import { indexOfIpv4, ipv4Entries } from '../../../agent/core/pool.ts';
import type { ServerName } from '../../../agent/core/words.ts';
import type { Mapping } from '../../../agent/dataplane/dataplane.ts';
import type { Memory } from '../../../agent/dataplane/memory.ts';
import { dropOfGrant } from '../../../agent/policy/filters.ts';
import type { Policy } from '../../../agent/policy/policy.ts';
import type { BaseModel } from './base.ts';
import { type GrantText, REMOTES, SERVERS, SOURCES } from './cases.ts';
import type { Gateway } from './gateway.ts';
import { DEVICES } from './neighbourhood.ts';

const HOUR_NS = 3_600_000_000_000n;
const LAG_NS = 100_000_000n;

let opened = 0;

export interface Grant {
  readonly mapping: Mapping;
  readonly server: ServerName;
  readonly text: GrantText;
}

export class Grants {
  readonly all: Grant[] = [];
  readonly #gateway: Gateway;
  readonly #memory: Memory;
  readonly #base: BaseModel;

  constructor(gateway: Gateway, { memory, base }: { memory: Memory; base: BaseModel }) {
    this.#gateway = gateway;
    this.#memory = memory;
    this.#base = base;
  }

  /** By a number that may be any; undefined where there is none at all. */
  at(n: number): Grant | undefined {
    return this.all[n % Math.max(1, this.all.length)];
  }

  /** Where no filter meets what it would carry, as the daemon judges. */
  open(text: GrantText, policy: Policy): void {
    const { pool } = this.#gateway.setup;
    const { family, protocol, slot, server, remote, remotePort } = text;
    const device = DEVICES[text.device];
    if (!device) return;
    const external =
      family === 'ipv4'
        ? { address: address(`203.0.113.${slot & 3}`), port: 40_000 + slot }
        : { address: address(`2001:db8:a::${slot + 1}`), port: 40_000 + slot };
    const v4 = indexOfIpv4(pool, protocol, external);
    opened += 1;
    const host = remote === 'all' ? 'all' : address(REMOTES[family][server === 'other' ? 2 : 0]);
    const mapping: Mapping = {
      index: v4 ?? ipv4Entries(pool) + slot * 2 + (protocol === 'udp' ? 1 : 0),
      number: opened,
      protocol,
      realm: device.place === 'one' ? 1 : 2,
      device: { address: address(device[family]), port: text.devicePort },
      external,
      remote: host,
      remotePort,
      classId: SERVERS[server],
      limits: {},
    };
    const grant = { mapping, server: server as unknown as ServerName, text };
    // One entry an endpoint, and one grant for a device's port and a server.
    const isTaken = this.all.some(
      ({ mapping: other }) =>
        other.index === mapping.index ||
        (other.protocol === protocol &&
          other.classId === mapping.classId &&
          other.device.port === mapping.device.port &&
          other.device.address.text === mapping.device.address.text),
    );
    if (isTaken || this.#dropOf(grant, policy)) return;
    for (const plane of this.#planes()) plane.open(mapping, process.hrtime.bigint() + HOUR_NS);
    this.all.push(grant);
  }

  end({ mapping: { index, number } }: Grant): void {
    const endNs = process.hrtime.bigint() - LAG_NS;
    for (const plane of this.#planes()) plane.end(index, number, endNs);
  }

  isAlive({ mapping: { index } }: Grant): boolean {
    return (this.#memory.entry(index)?.endNs ?? 0n) > process.hrtime.bigint();
  }

  #planes() {
    return [this.#gateway.gate, this.#memory];
  }

  /** Those that a drop of this policy meets end. */
  enforce(policy: Policy): void {
    for (const grant of this.all) if (this.#dropOf(grant, policy)) this.end(grant);
  }

  /** Nothing of them is left in the gate. */
  forget(): void {
    for (const { mapping } of this.all) this.#gateway.gate.forget(mapping);
  }

  #dropOf({ mapping: { protocol, device, remote, remotePort }, server, text }: Grant, policy: Policy) {
    const { family } = text;
    const remotes =
      remote === 'all' ? SOURCES[server as unknown as keyof typeof SOURCES].map(prefix) : [hostPrefix(remote)];
    const realm = DEVICES[text.device]?.place as never;
    const flow = {
      family,
      protocol,
      device: { realm, address: device.address },
      devicePort: device.port,
      remotes,
      remotePort: remotePort || undefined,
    };
    return dropOfGrant(policy.filters, flow, { isInGroup: (name, end) => this.#base.isInGroup(name, end) });
  }
}
