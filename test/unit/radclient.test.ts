/** A RADIUS client that is not ours (FreeRADIUS' radclient, with its dictionaries) tells the accounting server of sessions. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { afterEach, beforeEach, expect, test } from 'vitest';
import { address, formatEndpoint, prefix } from '../../agent/core/net.ts';
import type { AccountingEvent } from '../../agent/directory/accounting.ts';
import { AccountingListener } from '../../agent/directory/listener.ts';
import { HandClock, KeptLog } from '../clock.ts';

const SECRET = 'testing, one two three';
const clock = new HandClock();
let server: AccountingListener;
let events: AccountingEvent[];

beforeEach(async () => {
  events = [];
  server = await AccountingListener.open({
    listen: ['127.0.0.1', '::1'].map((text) => ({ address: address(text), port: 0 })),
    clients: [{ name: 'pgw-1', addresses: [prefix('127.0.0.1/32'), prefix('::1/128')], secret: Buffer.from(SECRET) }],
    handle: async (event) => {
      events.push(event);
      return 'done';
    },
    log: new KeptLog(),
    clock,
  });
});
afterEach(() => server.close());

/** What radclient said, and whether it got an answer that it believes. */
async function radclient(attributes: readonly string[], { secret = SECRET, family = 0 } = {}) {
  const bound = server.bound[family];
  if (!bound) throw new Error('not bound');
  const client = spawn('radclient', ['-x', '-r', '1', '-t', '2', formatEndpoint(bound), 'acct', secret]);
  let said = '';
  for (const stream of [client.stdout, client.stderr]) stream.on('data', (part) => (said += part));
  client.stdin.end(`${attributes.join('\n')}\n`);
  const [code] = await once(client, 'close');
  return { said, answered: code === 0 };
}

const START = [
  'Acct-Status-Type = Start',
  'Acct-Session-Id = "4A5B6C7D00000001"',
  'NAS-Identifier = "pgw-1.example"',
  'NAS-IP-Address = 10.0.0.99',
  'Called-Station-Id = "IoT.example"',
  'Calling-Station-Id = "491715550100"',
  'Framed-IP-Address = 10.20.0.5',
  'Framed-IPv6-Prefix = fd00:20:0:1::/64',
  'Framed-Interface-Id = 0:0:0:1',
  'Framed-IPv6-Address = fd00:20:0:1::5',
  'Delegated-IPv6-Prefix = fd00:20:1::/56',
  'Event-Timestamp = "Jan  1 2026 00:00:00 UTC"',
  'Acct-Delay-Time = 3',
  'User-Name = "whoever"',
  'Class = 0xff00',
  '3GPP-IMSI = "262011234567890"',
  '3GPP-Charging-ID = 4026531841',
  '3GPP-GGSN-Address = 192.0.2.99',
  '3GPP-NSAPI = "5"',
  '3GPP-RAT-Type = EUTRAN',
  '3GPP-IMEISV = "3520990017614823"',
  'Attr-26.10415.28 = 0x6d657465722d31406d65746572732e6578616d706c65',
];

test.each([0, 1])(
  'a start with all that a PGW tells is read as it was meant, and the answer is believed, family %i',
  async (family) => {
    const { answered, said } = await radclient(START, { family });
    expect([said, answered]).toEqual([expect.stringContaining('Received Accounting-Response'), true]);
    expect(events).toEqual([
      {
        kind: 'start',
        nas: { client: 'pgw-1', id: 'pgw-1.example' },
        time: { nasMs: Date.UTC(2026, 0, 1), hereMs: clock.nowMs() - 3_000 },
        session: '4A5B6C7D00000001',
        subscriber: { imsi: '262011234567890', msisdn: '491715550100', externalId: 'meter-1@meters.example' },
        apn: 'iot.example',
        ipv4: address('10.20.0.5'),
        ipv6Prefix: prefix('fd00:20:0:1::/64'),
        interfaceId: 1n,
        ipv6Address: address('fd00:20:0:1::5'),
        delegatedPrefix: prefix('fd00:20:1::/56'),
        stopsAll: false,
      },
    ]);
  },
);

test.each([
  ['Stop', { kind: 'stop', stopsAll: true }],
  ['Interim-Update', { kind: 'interim', stopsAll: false }],
  ['Accounting-On', { kind: 'on' }],
  ['Accounting-Off', { kind: 'off' }],
])('%s', async (status, event) => {
  const told = [`Acct-Status-Type = ${status}`, 'Acct-Session-Id = "1"', '3GPP-Session-Stop-Indicator = 255'];
  expect((await radclient(told)).answered).toBe(true);
  expect(events).toMatchObject([event]);
});

test('a Message-Authenticator is verified, Proxy-States come back, and the answer is believed', async () => {
  const states = ['Proxy-State = 0x0102', 'Proxy-State = 0x03'];
  const { answered, said } = await radclient([...START, ...states, 'Message-Authenticator = 0x00']);
  expect(answered).toBe(true);
  expect(said.slice(said.indexOf('Received'))).toMatch(/Proxy-State = 0x0102\n\s+Proxy-State = 0x03\n/);
});

test('with another secret there is no answer', async () => {
  const { answered, said } = await radclient(START, { secret: 'another secret' });
  expect([said, answered]).toEqual([expect.stringContaining('No reply from server'), false]);
  expect(events).toEqual([]);
  expect(server.reading().dropped).toEqual([{ client: 'pgw-1', reason: 'wrongAuthenticator', count: 1 }]);
});
