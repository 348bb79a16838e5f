/**
 * The requirements of TR 23.888 (5.3.2, 5.8.2), each with the tests that prove
 * it. The report's own text is not at hand here: they are quoted as our plan
 * and the README quote them. A test that is renamed or gone fails here.
 */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { ROOT } from '../child.ts';
import { hasTest } from './titles.ts';

interface Requirement {
  readonly clause: '5.3.2' | '5.8.2';
  readonly sentence: string;
  /** By file and title. */
  readonly provedBy: readonly (readonly [file: string, title: string])[];
}

const REQUIREMENTS: readonly Requirement[] = [
  {
    clause: '5.3.2',
    sentence: 'topology hiding: an inner address is in no answer, error, packet or ICMP quote toward the outside',
    provedBy: [
      [
        'test/e2e/agent.test.ts',
        'what a device begins itself comes from the egress pool, and its inner address is nowhere on the wire',
      ],
      ['test/unit/mtc-user-api.test.ts', 'are seen without addresses and rules, and end when they are revoked'],
    ],
  },
  {
    clause: '5.3.2',
    sentence: 'end-system privacy: "no such device" and "not your device" are one answer',
    provedBy: [
      ['test/unit/desk-grants.test.ts', 'is told no more than that there is no such device'],
      ['test/unit/api-t8.test.ts', 'unknown and foreign devices are one answer, byte for byte but for its instance'],
    ],
  },
  {
    clause: '5.3.2',
    sentence: 'no unauthorised communication',
    provedBy: [
      ['test/e2e/agent.test.ts', 'direct contact is blocked, even where a route leads to the device'],
      [
        'test/e2e/agent.test.ts',
        'who has no certificate, or is authorised by nobody, is refused with the reason in the log',
      ],
    ],
  },
  {
    clause: '5.3.2',
    sentence: 'no unwanted communication; what is unwanted is not the same as what is unauthorised',
    provedBy: [
      ['test/e2e/mtc-user.test.ts', 'when the MTC user blocks the device, which outlives a restart'],
      [
        'test/unit/desk-grants.test.ts',
        'unwanted is not unauthorised: without an allow of the operator it is that which refuses',
      ],
      ['test/property/desk.test.ts', 'a block refuses every request to its devices, whatever else is said'],
    ],
  },
  {
    clause: '5.3.2',
    sentence: 'no new threat to the device from the mechanism itself',
    provedBy: [
      ['test/e2e/agent.test.ts', 'nft flush ruleset: still closed, live grants go on, and the base comes back'],
      [
        'test/e2e/mtc-user.test.ts',
        'a desk that cannot be read stops the start, and says how to go on: no withdrawal is forgotten',
      ],
    ],
  },
  {
    clause: '5.8.2',
    sentence: 'a device receives trigger indications only from authorised MTC servers',
    provedBy: [
      ['test/unit/triggers.test.ts', 'another server: as if the device were not there, with as many steps'],
      [
        'test/e2e/device-triggering.test.ts',
        'reaches a CoAP device: confirmable, from the one source, this payload; SUCCESS when it acknowledged',
      ],
      [
        'test/e2e/device-triggering.test.ts',
        'is answered as if there were no such device, its device gets nothing, and the MTC user is told who it was',
      ],
      ['test/e2e/device-triggering.test.ts', 'may not use the name of one that is'],
      [
        'test/e2e/triggers.test.ts',
        'nobody outside reaches a trigger port, and who tried is told with the device and its MTC user',
      ],
    ],
  },
  {
    clause: '5.8.2',
    sentence:
      'when a trigger indication comes from a source that is not authorised, the MTC user can be given the details of the source',
    provedBy: [
      [
        'test/e2e/device-triggering.test.ts',
        'is answered as if there were no such device, its device gets nothing, and the MTC user is told who it was',
      ],
      ['test/e2e/reports.test.ts', 'appears at the sink of the MTC user with the details of the source, signed'],
      ['test/e2e/reports.test.ts', 'is in the list, the table of the day and the stream'],
      [
        'test/e2e/reports.test.ts',
        'a packet to a live endpoint from elsewhere is told without proof, and without an inner address',
      ],
    ],
  },
  {
    clause: '5.8.2',
    sentence: 'the MTC user can provide its set of authorised servers',
    provedBy: [
      ['test/unit/mtc-user-api.test.ts', 'are added and withdrawn, and asked for accordingly'],
      [
        'test/e2e/mtc-user.test.ts',
        'when the MTC user withdraws the server: all that it has; what another server has goes on',
      ],
    ],
  },
];

test.each(REQUIREMENTS)('$clause: $sentence', ({ provedBy }) => {
  expect(provedBy.length).toBeGreaterThan(0);
  for (const [file, title] of provedBy) {
    expect(hasTest(readFileSync(join(ROOT, file), 'utf8'), title), `${file}: ${title}`).toBe(true);
  }
});
