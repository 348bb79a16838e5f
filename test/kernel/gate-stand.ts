/**
 * The gate as it was built, and where suites load it again and again: a
 * namespace with the interfaces it is loaded for, which the test's thread
 * stays in, and fresh maps each time. A gate then costs a few milliseconds;
 * one on interfaces of its own a third of a second.
 */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { Gate } from '../../agent/dataplane/gate.ts';
import { ROOT } from '../child.ts';
import { enter } from '../enter.ts';
import { Network } from '../network.ts';
import type { MakeRig } from '../suites/fixture.ts';

export const GATE_OBJECT = `${ROOT}dist/dataplane/gate.bpf.o`;

/** To be closed behind the test file. */
export interface Stand {
  readonly make: MakeRig;
  close(): Promise<void>;
}

export function gateStand(): Stand {
  const end = (name: string) => ({ namespace: 'gateway', interface: name, addresses: [] });
  const network = Network.create({
    namespaces: { gateway: {} },
    links: [
      [end('outside'), end('inside')],
      [end('inside2'), end('other')],
    ],
  });
  const number = (name: string) => network.link('gateway', name).ifindex;
  const interfaces = {
    outside: number('outside'),
    inside: number('inside'),
    secondInside: number('inside2'),
    other: number('other'),
  };
  const bpffs = network.bpffs();
  const leave = enter(network.name('gateway'));
  return {
    make: (setupOf) => {
      const gate = Gate.load({
        object: GATE_OBJECT,
        bpffs: mkdtempSync(join(bpffs, 'gate-')),
        setup: setupOf(interfaces),
      });
      return { plane: gate, interfaces, close: () => gate.close() };
    },
    close: async () => {
      leave();
      await network.close();
    },
  };
}
