/** The real gate for the suites: a namespace with interfaces to be loaded for, and fresh maps each time. */
import { mkdtempSync } from 'node:fs';
import { join } from 'node:path';
import { Gate } from '../../agent/dataplane/gate.ts';
import { ROOT } from '../child.ts';
import { enter } from '../enter.ts';
import { Network } from '../network.ts';
import type { MakeRig } from '../suites/fixture.ts';

/** What `npm run build` compiles. */
export const GATE_OBJECT = join(ROOT, 'dist/dataplane/gate.bpf.o');

/** Where gates are loaded for a test file; to be closed behind it. */
export interface Bench {
  readonly make: MakeRig;
  close(): Promise<void>;
}

export function gateBench(): Bench {
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
