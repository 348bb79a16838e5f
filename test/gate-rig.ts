/**
 * The gate for tests, on a BPF file system and interfaces of its own: to ask
 * it about single packets (no packet ever flows there), or, with `within`, to
 * load and attach it in the namespace of a Network.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, openSync } from 'node:fs';
import koffi from 'koffi';
import type { GateSetup } from '../agent/dataplane/dataplane.ts';
import { Gate } from '../agent/dataplane/gate.ts';
import { ROOT } from './child.ts';
import { Network } from './network.ts';

export const GATE_OBJECT = `${ROOT}dist/dataplane/gate.bpf.o`;

/** Indices of interfaces that stand in the test's own namespace, down, without addresses. */
export interface RigInterfaces {
  readonly outside: number;
  readonly inside: number;
  readonly secondInside: number;
  readonly other: number;
}

export interface GateRig {
  readonly plane: Gate;
  readonly interfaces: RigInterfaces;
  close(): void;
}

let serial = 0;

/** A fresh gate, loaded and not attached. */
export function makeGateRig(setupOf: (interfaces: RigInterfaces) => GateSetup): GateRig {
  const network = Network.create({ namespaces: {}, links: [] });
  const names = ['a', 'b', 'c', 'd'].map((end) => `mg${process.pid}x${serial}${end}`);
  serial += 1;
  const [a = '', b = '', c = '', d = ''] = names;
  const ip = (line: string) => execFileSync('ip', line.split(' '), { encoding: 'utf8' });
  ip(`link add ${a} type veth peer name ${b}`);
  ip(`link add ${c} type veth peer name ${d}`);
  const close = () => {
    for (const name of [a, c]) ip(`link delete ${name}`);
    network.destroy();
  };
  try {
    const [outside = 0, inside = 0, secondInside = 0, other = 0] = names.map(
      (name) => (JSON.parse(ip(`-json link show dev ${name}`)) as { ifindex: number }[])[0]?.ifindex,
    );
    const interfaces = { outside, inside, secondInside, other };
    const plane = Gate.load({ object: GATE_OBJECT, bpffs: `${network.bpffs()}/mtgate`, setup: setupOf(interfaces) });
    return {
      plane,
      interfaces,
      close: () => {
        plane.close();
        close();
      },
    };
  } catch (cause) {
    close();
    throw cause;
  }
}

const CLONE_NEWNET = 0x40000000;
const setns = koffi.load('libc.so.6').func('int setns(int fd, int type)');

/**
 * Does something as if this process stood in a namespace. The kernel moves the
 * calling thread only: the work must be synchronous, as all of the gate's is.
 */
export function within<T>(network: Network, namespace: string, work: () => T): T {
  const home = openSync('/proc/thread-self/ns/net', 'r');
  const there = openSync(`/run/netns/${network.name(namespace)}`, 'r');
  try {
    enter(there);
    return work();
  } finally {
    enter(home);
    closeSync(home);
    closeSync(there);
  }
}

function enter(namespace: number): void {
  if (setns(namespace, CLONE_NEWNET) !== 0) throw new Error(`setns: errno ${koffi.errno()}`);
}
