import { describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { decide } from '../../agent/policy/decide.ts';
import { NO_USAGE } from '../../agent/policy/policy.ts';
import type { Question } from '../../agent/policy/question.ts';
import { whatWouldPass } from '../../agent/policy/remedy.ts';
import { policyOf } from '../rules.ts';

const POLICY = policyOf(`servers:
  acme: { certificates: [{ uri: "urn:acme" }], sources: [198.51.100.0/25] }
  zeta: { certificates: [{ uri: "urn:zeta" }], sources: [192.0.2.0/25] }
mtcUsers:
  acme: { devices: ["*@acme.example"], authorises: [acme], mayAuthorise: ["acme*"] }
rules:
  - { id: far, allow: { servers: [zeta], devices: ["*@z.example"], ports: [1] }, limits: { durationSeconds: 9 } }
  - { id: meters-coap, allow: { servers: [acme], protocols: [udp], ports: [5683, "61616-61631"] }, limits: { durationSeconds: 900, requestsPerMinute: 3 } }
  - { id: maintenance, allow: { ports: [22] }, when: 'device.externalId.startsWith("x")', limits: { durationSeconds: 60 } }
  - { id: telnet, deny: { ports: [23], reason: never } }
`);
const toPass = (changes: Partial<Question>) => {
  const question: Question = {
    server: 'acme' as never,
    device: { externalId: 'm1@acme.example' as never, attributes: {}, boundFamilies: ['ipv4'] },
    protocol: 'udp',
    port: 5683,
    durationSeconds: 600,
    requestAddress: address('198.51.100.7'),
    usage: NO_USAGE,
    nowMs: 'anyTime',
    ...changes,
  };
  return whatWouldPass(POLICY, question, decide(POLICY, question));
};

describe('what would have to change', () => {
  test('where no rule allows: the nearest allows, and the members of them that did not match', () => {
    expect(toPass({ port: 5684 })).toEqual([
      'allow maintenance (a.yaml:9): port 5684 is not in 22',
      'allow meters-coap (a.yaml:8): port 5684 is not in 5683, 61616-61631',
      'allow far (a.yaml:7): server acme is not in zeta; device m1@acme.example is not in *@z.example; port 5684 is not in 1',
    ]);
    expect(toPass({ port: 22, protocol: 'tcp' })[0]).toBe(
      'allow maintenance (a.yaml:9): its condition does not hold: device.externalId.startsWith("x")',
    );
  });

  test.each<[string, Partial<Question>, string[]]>([
    ['a request that passes', {}, []],
    [
      'an unknown device',
      { device: undefined },
      ['the device must be registered (devices file or import), by the identifier that was used'],
    ],
    [
      "nobody's device",
      { device: { externalId: 'm1@z.example' as never, attributes: {}, boundFamilies: [] } },
      ['an MTC user must own the device: no pattern in `devices` of one matches m1@z.example'],
    ],
    [
      'a server that is not authorised, and may not be',
      { server: 'zeta' as never },
      ['MTC user acme must have zeta in its `authorises`, and its `mayAuthorise` must admit it (now: acme*)'],
    ],
    ['a deny', { port: 23 }, ['deny telnet (a.yaml:10) must not match: it is for the ports 23']],
    [
      'an address elsewhere',
      { requestAddress: address('203.0.113.9') },
      [
        '203.0.113.9 must be within `sources` of acme (198.51.100.0/25), or the server name an applicationServer that is',
      ],
    ],
    [
      'all of its addresses',
      { applicationServer: 'all' },
      ['the server must name one address, or meters-coap (a.yaml:8) have `applicationServer: all`'],
    ],
    [
      'a rate',
      { usage: { ...NO_USAGE, requestsInLastMinute: 3 } },
      ['3 requests in the last minute, of 3: meters-coap (a.yaml:8) must allow more'],
    ],
  ])('for %s', (_, changes, expected) => expect(toPass(changes)).toEqual(expected));
});
