/** What is read of a packet that did not pass; what must hold of any bytes is in test/property/packet.test.ts. */
import { describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import type { PacketReason } from '../../agent/core/reasons.ts';
import type { ExternalId, GrantId, MtcUserName, Owner } from '../../agent/core/words.ts';
import { readNflog } from '../../agent/inspector/nflog-message.ts';
import { readPacket } from '../../agent/inspector/packet.ts';
import { type OwnerOf, packetDenial, type Whose } from '../../agent/inspector/packet-denial.ts';
import { icmp, ip, raw, spoil, tcp, udp } from '../frames.ts';

const A4 = '198.51.100.9';
const B4 = '203.0.113.1';
const A6 = '2001:db8::9';
const B6 = '2001:db8:a::1';

describe('a packet', () => {
  const ports = { source: 40_000, destination: 5683 };

  test.each([
    ['udp', ip(A4, B4, udp(40_000, 5683, 'hello')), { family: 'ipv4', protocol: 17, hops: 64, ports }],
    ['tcp', ip(A4, B4, tcp(40_000, 5683), { hops: 3 }), { protocol: 6, hops: 3, ports }],
    ['icmp', ip(A4, B4, icmp('icmp', 8, 0)), { protocol: 1, icmp: { type: 8, code: 0 } }],
    ['with IPv4 options', ip(A4, B4, udp(40_000, 5683), { options: new Uint8Array(8) }), { ports }],
    ['udp over IPv6', ip(A6, B6, udp(40_000, 5683)), { family: 'ipv6', protocol: 17, ports }],
    ['icmpv6', ip(A6, B6, icmp('icmpv6', 128, 0)), { protocol: 58, icmp: { type: 128, code: 0 } }],
    [
      'behind extension headers',
      ip(A6, B6, tcp(40_000, 5683), { extensions: [0, 43, 60] }),
      { protocol: 6, extensions: [0, 43, 60], ports },
    ],
    ['another protocol', ip(A4, B4, raw(47, 'gre')), { protocol: 47 }],
  ])('%s', (_, bytes, expected) => {
    const packet = readPacket(bytes);
    expect(packet).toMatchObject(expected);
    expect([packet.source?.text, packet.destination?.text]).toEqual(packet.family === 'ipv4' ? [A4, B4] : [A6, B6]);
  });

  test.each([
    ['IPv4', A4, B4],
    ['IPv6', A6, B6],
  ])('a first %s fragment has ports, a later one has none', (_, from, to) => {
    const first = ip(from, to, udp(40_000, 5683), { fragment: { offset: 0, more: true }, id: 7 });
    expect(readPacket(first)).toMatchObject({ ports, protocol: 17, fragment: { id: 7, offset: 0, more: true } });
    const later = readPacket(ip(from, to, raw(17, 64), { fragment: { offset: 1480, more: false }, id: 7 }));
    expect(later).toMatchObject({ protocol: 17, fragment: { id: 7, offset: 1480, more: false } });
    expect(later.ports).toBeUndefined();
  });

  test('an authentication header is passed by its own unit', () => {
    const upper = udp(40_000, 5683).bytes(address(A6), address(B6));
    const header = Uint8Array.of(17, 4, ...new Uint8Array(22)); // 24 bytes: (4 + 2) * 4
    expect(readPacket(ip(A6, B6, raw(51, Uint8Array.of(...header, ...upper))))).toMatchObject({
      extensions: [51],
      ports,
    });
  });

  test('lengths that contradict each other end the reading there', () => {
    const sound = ip(A4, B4, udp(40_000, 5683));
    for (const broken of [spoil(sound, 0, 0x44), spoil(sound, 2, 0, 19), spoil(sound, 2, 0, 20)]) {
      expect(readPacket(broken)).toMatchObject({ protocol: 17, destination: { text: B4 } });
      expect(readPacket(broken).ports).toBeUndefined();
    }
    expect(readPacket(ip(A6, B6, udp(1, 2), { extensions: Array(9).fill(60) })).ports).toBeUndefined();
  });

  test('an IPv4-mapped address on the wire is no address', () => {
    const packet = readPacket(spoil(ip(A6, B6, udp(1, 2)), 8, ...address('10.20.0.2').bytes));
    expect(packet).toMatchObject({ family: 'ipv6', destination: { text: B6 } });
    expect(packet.source).toBeUndefined();
  });
});

describe('a denied packet', () => {
  const owner: Owner = { grant: 'G' as GrantId, mtcUser: 'acme' as MtcUserName, device: 'm1@a.example' as ExternalId };
  const asked: string[] = [];
  const ownerOf: OwnerOf = (protocol, external, from) => {
    asked.push(`${protocol} ${external.address.text} ${external.port} from ${from?.text}`);
    return owner;
  };

  test('is put down to whose endpoint it was for', () => {
    const row = packetDenial('wrongSource', ip(A6, B6, tcp(1, 443)), { ownerOf });
    const seen = { source: A6, sourcePort: 1, target: `tcp [${B6}]:443` };
    expect(row).toEqual({ kind: 'packet', reason: 'wrongSource', ...seen, ...owner });
    expect(asked.splice(0)).toEqual([`tcp ${B6} 443 from ${A6}`]);
  });

  test('to a trigger port of a device is a trigger that nobody authorised, and is put down to whose device it is', () => {
    const { mtcUser, device } = owner;
    const triggeredAt = ({ address: to, port }: { address: { text: string }; port: number }) =>
      port !== 5690 ? undefined : to.text === B4 ? { mtcUser, device } : {};
    const row = (reason: PacketReason, bytes: Uint8Array) => packetDenial(reason, bytes, { ownerOf, triggeredAt });
    const whose = {
      kind: 'packet',
      reason: 'unauthorisedTrigger',
      source: A4,
      sourcePort: 1,
      target: `udp ${B4}:5690`,
      mtcUser,
      device,
    };
    for (const reason of ['realmDestination', 'deviceToDevice', 'unauthorisedTrigger'] as const)
      expect(row(reason, ip(A4, B4, udp(1, 5690)))).toEqual(whose);
    expect(row('realmDestination', ip(A6, B6, tcp(1, 5690)))).toEqual({
      ...{ kind: 'packet', reason: 'unauthorisedTrigger', source: A6, sourcePort: 1, target: `tcp [${B6}]:5690` },
    });
    expect(row('realmDestination', ip(A4, B4, udp(1, 5691)))).toMatchObject({ reason: 'realmDestination' });
    expect(row('realmDestination', ip(A4, B4, icmp('icmp', 8, 0)))).toMatchObject({ reason: 'realmDestination' });
    // An external endpoint is no trigger port, whatever its number.
    expect(row('wrongSource', ip(A4, B4, udp(1, 5690)))).toMatchObject({ reason: 'wrongSource' });
    asked.splice(0);
  });

  test("is nobody's where the gate knew of no grant, whoever has the endpoint by now", () => {
    expect(packetDenial('noGrant', ip(A4, B4, udp(1, 443)), { ownerOf })).not.toHaveProperty('mtcUser');
    expect(asked).toEqual([]);
  });

  test("to a device's own address is put down to who holds it, but what its grant was for to that", () => {
    const { mtcUser, device } = owner;
    const whose: Whose = {
      ownerOf: (protocol, { port }) => (protocol === 'udp' && port === 7000 ? owner : undefined),
      ownAddressAt: ({ text }) => (text === B4 ? { mtcUser, device } : undefined),
    };
    const row = (reason: PacketReason, bytes: Uint8Array) => packetDenial(reason, bytes, whose);
    expect(row('unsolicited', ip(A4, B4, tcp(1, 22)))).toEqual({
      ...{ kind: 'packet', reason: 'unsolicited', source: A4, sourcePort: 1, target: `tcp ${B4}:22`, mtcUser, device },
    });
    expect(row('wrongSource', ip(A4, B4, udp(1, 7000)))).toMatchObject({ ...owner });
    expect(row('grantEnded', ip(A4, B4, udp(1, 7001)))).toMatchObject({ mtcUser, device });
    expect(row('noGrant', ip(A4, B4, udp(1, 7000)))).not.toHaveProperty('grant');
    expect(row('unsolicited', ip(A4, B4, icmp('icmp', 8, 0)))).toMatchObject({ mtcUser, device });
    expect(row('unsolicited', ip(A6, B6, tcp(1, 22)))).not.toHaveProperty('mtcUser');
  });

  test.each([
    ['icmp', ip(A4, B4, icmp('icmp', 8, 0)), A4, `icmp ${B4} type 8`],
    ['a later fragment', ip(A4, B4, raw(17, 8), { fragment: { offset: 8, more: false } }), A4, `udp ${B4}`],
    ['another protocol', ip(A4, B4, raw(99)), A4, `protocol-99 ${B4}`],
    ['cut behind the source', ip(A4, B4, udp(1, 2)).subarray(0, 17), A4, 'udp unknown'],
    ['nothing', new Uint8Array(), 'unknown', 'ip unknown'],
  ])('%s has the target that can be read', (_, bytes, source, target) => {
    expect(packetDenial('malformed', bytes, { ownerOf })).toEqual({
      kind: 'packet',
      reason: 'malformed',
      source,
      target,
    });
  });
});

describe('a message of NFLOG', () => {
  const tlv = (type: number, value: Uint8Array, length = value.length + 4) => {
    const bytes = new Uint8Array((value.length + 7) & ~3);
    new DataView(bytes.buffer).setUint16(0, length, true);
    new DataView(bytes.buffer).setUint16(2, type, true);
    bytes.set(value, 4);
    return bytes;
  };
  const text = (of: string) => new TextEncoder().encode(`${of}\0`);
  const message = (...tlvs: Uint8Array[]) => Uint8Array.of(2, 0, 0, 100, ...tlvs.flatMap((one) => [...one]));
  const prefix = tlv(10, text('mtgate noGrant'));
  const payload = tlv(9, Uint8Array.of(1, 2, 3));
  const unknown = tlv(77, new Uint8Array(5));
  const wanted = { prefix: 'mtgate noGrant', payload: Uint8Array.of(1, 2, 3) };

  test.each([
    ['in order', message(prefix, payload)],
    ['reordered', message(payload, prefix)],
    ['among unknown ones', message(unknown, prefix, unknown, payload, unknown)],
    ['without the last padding', message(prefix, payload).subarray(0, -1)],
  ])('%s', (_, bytes) => expect(readNflog(bytes)).toEqual(wanted));

  test('a prefix without its end is one; a payload may be empty', () => {
    const bytes = message(tlv(10, new TextEncoder().encode('x')), tlv(9, new Uint8Array()));
    expect(readNflog(bytes)).toEqual({ prefix: 'x', payload: new Uint8Array() });
  });

  test.each([
    ['empty', new Uint8Array()],
    ['its header only', message()],
    ['without a payload', message(prefix)],
    ['without a prefix', message(payload)],
    ['cut within a TLV', message(prefix, payload).subarray(0, -3)],
    ['cut within the header of a TLV', message(prefix, payload, Uint8Array.of(8, 0))],
    ['a TLV longer than the message', message(prefix, tlv(9, new Uint8Array(4), 200))],
    ['a TLV shorter than its own header', message(prefix, payload, tlv(1, new Uint8Array(), 3))],
    ['a TLV of no length', message(prefix, payload, tlv(1, new Uint8Array(), 0))],
    ['a prefix longer than any', message(tlv(10, new Uint8Array(200).fill(65)), payload)],
  ])('%s: damaged', (_, bytes) => expect(readNflog(bytes)).toBe('damaged'));
});
