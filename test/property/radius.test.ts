/**
 * Whatever comes to the accounting port: nothing throws, nothing without the
 * right authenticator is taken, and what was written is what is read.
 */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import { eventOf } from '../../agent/directory/attributes.ts';
import { DROPS } from '../../agent/directory/drops.ts';
import { readRequest, responseTo } from '../../agent/directory/radius.ts';
import { accountingRequest, accountingResponse, attribute, of3gpp, SECRET, START } from '../radius.ts';

const SOURCE = address('2001:db8::9');
const read = (datagram: Buffer) => {
  const request = readRequest(datagram, SECRET);
  return 'drop' in request ? request : eventOf(request.attributes, 'pgw-1', SOURCE, 0);
};
const bytes = (least: number, most = least) =>
  fc.uint8Array({ minLength: least, maxLength: most }).map((array) => Buffer.from(array));
const digits = (least: number, most: number) =>
  fc.array(fc.integer({ min: 0, max: 9 }), { minLength: least, maxLength: most }).map((all) => all.join(''));

/** Attributes as any sender might make them: of every type, among them those that are known, of every length. */
const KNOWN = [4, 8, 26, 30, 31, 32, 33, 40, 41, 44, 55, 80, 95, 96, 97, 123, 168];
const session = bytes(1, 3).map((value) => attribute(44, Buffer.from(value.map((one) => 0x20 + (one % 0x5f)))));
const wild = fc
  .record({ type: fc.oneof(fc.constantFrom(...KNOWN), fc.nat(255)), value: bytes(0, 24) })
  .map(({ type, value }) => attribute(type, value));
const wild3gpp = fc
  .array(fc.record({ type: fc.integer({ min: 1, max: 30 }), value: bytes(0, 20) }), { maxLength: 4 })
  .map((inner) => of3gpp(...inner.map(({ type, value }) => attribute(type, value))));

test('authentic packets of any attributes, and of octets that are none, are an event or have a reason', () => {
  const content = fc.oneof(
    { weight: 3, arbitrary: fc.array(fc.oneof(wild, wild3gpp, session), { maxLength: 8 }) },
    { weight: 1, arbitrary: bytes(0, 300).map((one) => [one]) },
  );
  const seen = new Set<string>();
  fc.assert(
    fc.property(content, (attributes) => {
      const reading = read(accountingRequest([START, ...attributes]));
      seen.add('drop' in reading ? reading.drop : reading.kind);
      if ('drop' in reading) expect(Object.keys(DROPS)).toContain(reading.drop);
    }),
    { numRuns: 3_000 },
  );
  // what was drawn went deep: to the values of attributes, and past them
  const deep = ['attributeTwice', 'malformedAttribute', 'missingSession', 'notUtf8', 'start'];
  expect([...seen]).toEqual(expect.arrayContaining(deep));
});

test('octets that nobody signed are dropped', () => {
  fc.assert(
    fc.property(bytes(0, 200), (datagram) => {
      expect(read(datagram)).toHaveProperty('drop');
    }),
    { numRuns: 2_000 },
  );
});

const written = fc.record({
  session: digits(1, 20),
  imsi: digits(6, 15),
  msisdn: digits(4, 14).map((rest) => `4${rest}`),
  ipv4: bytes(4).filter((b) => b.readUInt32BE(0) > 0 && b.readUInt32BE(0) < 0xfffffffe),
  subnet: bytes(6),
  interfaceId: bytes(8),
  identifier: fc.nat(255),
  message: fc.boolean(),
  order: fc.array(fc.nat(), { minLength: 7, maxLength: 7 }),
});

function packetOf(of: Parameters<Parameters<typeof written.map>[0]>[0]): Buffer {
  const text = (content: string) => Buffer.from(content);
  const attributes = [
    attribute(8, of.ipv4),
    attribute(31, text(of.msisdn)),
    attribute(40, '00000003'),
    attribute(44, text(of.session)),
    attribute(96, of.interfaceId),
    attribute(97, Buffer.concat([Buffer.from([0, 64, 0xfd, 0]), of.subnet])),
    of3gpp(attribute(1, text(of.imsi))),
  ];
  const shuffled = attributes.map((one, i) => [of.order[i] ?? 0, one] as const).sort(([a], [b]) => a - b);
  return accountingRequest(
    shuffled.map(([, one]) => one),
    of,
  );
}

test('what is written is read, in whatever order', () => {
  fc.assert(
    fc.property(written, (of) => {
      const subnet = of.subnet.toString('hex').replace(/(.{4})(?=.)/g, '$1:');
      expect(read(packetOf(of))).toMatchObject({
        kind: 'interim',
        session: of.session,
        subscriber: { imsi: of.imsi, msisdn: of.msisdn },
        ipv4: address([...of.ipv4].join('.')),
        ipv6Prefix: prefix(`${address(`fd00:${subnet}::`).text}/64`),
        interfaceId: BigInt(`0x${of.interfaceId.toString('hex')}`),
      });
    }),
    { numRuns: 500 },
  );
});

test('one octet changed, inserted or cut off, and the packet is none', () => {
  const change = fc.record({
    at: fc.nat(),
    by: fc.integer({ min: 1, max: 255 }),
    how: fc.constantFrom('change', 'insert', 'cut'),
  });
  fc.assert(
    fc.property(written, change, (of, { at, by, how }) => {
      const packet = packetOf(of);
      const place = at % packet.length;
      const changed =
        how === 'cut'
          ? Buffer.concat([packet.subarray(0, place), packet.subarray(place + 1)])
          : Buffer.concat([
              packet.subarray(0, place),
              Buffer.of((packet[place] ?? 0) ^ by),
              packet.subarray(place + (how === 'change' ? 1 : 0)),
            ]);
      expect(read(changed)).toHaveProperty('drop');
    }),
    { numRuns: 3_000 },
  );
});

test('every authentic request has the answer that its NAS expects', () => {
  const states = fc.array(bytes(0, 60), { maxLength: 6 });
  fc.assert(
    fc.property(states, fc.nat(255), fc.boolean(), (values, identifier, message) => {
      const proxyStates = values.map((value) => attribute(33, value));
      const datagram = accountingRequest([START, ...proxyStates], { identifier, message });
      const request = readRequest(datagram, SECRET);
      if ('drop' in request) throw new Error(request.drop);
      expect(responseTo(request, SECRET)).toEqual(accountingResponse(datagram, proxyStates));
    }),
    { numRuns: 500 },
  );
});
