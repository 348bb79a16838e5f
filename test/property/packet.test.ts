/** What must hold of reading any bytes: it ends, never throws, and says no more than is there. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { address, addressFromBytes } from '../../agent/core/net.ts';
import { readNflog } from '../../agent/inspector/nflog-message.ts';
import { type Packet, readPacket } from '../../agent/inspector/packet.ts';
import { type IpFields, icmp, ip, raw, tcp, type Upper, udp } from '../frames.ts';

const port = fc.nat(65_535);
const ipv4 = fc.uint8Array({ minLength: 4, maxLength: 4 }).map((bytes) => bytes.join('.'));
/** Never IPv4-mapped. */
const ipv6 = fc
  .uint8Array({ minLength: 16, maxLength: 16 })
  .map((bytes) => addressFromBytes(Uint8Array.of(0x20, ...bytes.subarray(1))).text);
const content = fc.uint8Array({ maxLength: 40 });

interface Made {
  readonly bytes: Uint8Array;
  readonly from: string;
  readonly to: string;
  readonly fields: IpFields;
  readonly carried: Pick<Packet, 'protocol' | 'ports' | 'icmp'>;
}

function carried(family: 'icmp' | 'icmpv6'): fc.Arbitrary<[Upper, Made['carried']]> {
  return fc.oneof(
    fc
      .tuple(port, port, content)
      .map(([source, destination, of]): [Upper, Made['carried']] => [
        udp(source, destination, of),
        { protocol: 17, ports: { source, destination } },
      ]),
    fc
      .tuple(port, port, content)
      .map(([source, destination, of]): [Upper, Made['carried']] => [
        tcp(source, destination, of),
        { protocol: 6, ports: { source, destination } },
      ]),
    fc
      .tuple(fc.nat(255), fc.nat(255), content)
      .map(([type, code, of]): [Upper, Made['carried']] => [
        icmp(family, type, code, of),
        { protocol: family === 'icmp' ? 1 : 58, icmp: { type, code } },
      ]),
    fc
      .tuple(fc.constantFrom(47, 50, 59, 132), content)
      .map(([protocol, of]): [Upper, Made['carried']] => [raw(protocol, of), { protocol }]),
  );
}

const fragment = fc.option(
  fc
    .record({ offset: fc.nat(8190).map((unit) => unit * 8), more: fc.boolean() })
    .filter(({ offset, more }) => offset > 0 || more),
  { nil: undefined },
);
const common = { hops: fc.nat(255), id: fc.nat(65_535), fragment };

const made: fc.Arbitrary<Made> = fc
  .oneof(
    fc.tuple(
      ipv4,
      ipv4,
      carried('icmp'),
      fc.record({ ...common, options: fc.nat(10).map((words) => new Uint8Array(words * 4)) }),
    ),
    fc.tuple(
      ipv6,
      ipv6,
      carried('icmpv6'),
      fc.record({ ...common, extensions: fc.array(fc.constantFrom(0, 43, 60, 135), { maxLength: 6 }) }),
    ),
  )
  .map(([from, to, [upper, carries], { fragment: of, ...rest }]) => {
    const fields: IpFields = { ...rest, ...(of && { fragment: of }) };
    return { bytes: ip(from, to, upper, fields), from, to, fields, carried: carries };
  });

/** Some bytes of a packet overwritten, or its end cut off. */
const mutated = fc
  .tuple(made, fc.array(fc.tuple(fc.nat(95), fc.nat(255)), { maxLength: 6 }), fc.nat(120))
  .map(([{ bytes }, changes, length]) => {
    const copy = Uint8Array.from(bytes);
    for (const [at, value] of changes) if (at < copy.length) copy[at] = value;
    return copy.subarray(0, length);
  });
const anything = fc.oneof(
  fc.uint8Array({ maxLength: 120 }),
  mutated,
  made.map(({ bytes }) => bytes),
);

const RUNS = { numRuns: 500 };

describe('a packet', { timeout: 30_000 }, () => {
  test('that is well formed comes back as it was made', () => {
    fc.assert(
      fc.property(made, ({ bytes, from, to, fields, carried: carries }) => {
        const { fragment: of, extensions = [] } = fields;
        const chain = [...extensions, ...(of ? [44] : [])];
        const later = of !== undefined && of.offset > 0;
        const packet = readPacket(bytes);
        expect(packet.source).toEqual(address(from));
        expect(packet.destination).toEqual(address(to));
        expect(packet).toMatchObject({ hops: fields.hops, protocol: carries.protocol });
        expect(packet.fragment).toEqual(of && { ...of, id: fields.id });
        expect(packet.extensions).toEqual(packet.family === 'ipv6' && chain.length > 0 ? chain : undefined);
        expect(packet.ports).toEqual(later ? undefined : carries.ports);
        expect(packet.icmp).toEqual(later ? undefined : carries.icmp);
      }),
      RUNS,
    );
  });

  test('of any bytes is read, and what is read of fewer bytes is what is read of more', () => {
    fc.assert(
      fc.property(anything, fc.nat(120), (bytes, length) => {
        const whole = readPacket(bytes);
        const part = readPacket(bytes.subarray(0, length));
        expect(whole.extensions?.length ?? 0).toBeLessThanOrEqual(8);
        const { extensions = [], ...known } = part;
        expect(whole).toMatchObject(known);
        expect((whole.extensions ?? []).slice(0, extensions.length)).toEqual(extensions);
      }),
      RUNS,
    );
  });
});

/** TLVs of NFLOG, some of them wrong about their length. */
const tlv = fc
  .tuple(fc.constantFrom(1, 9, 10, 77), fc.uint8Array({ maxLength: 20 }), fc.constantFrom(0, 0, 0, 0, 0, 0, -4, 1, 300))
  .map(([type, value, wrongBy]) => {
    const bytes = new Uint8Array((value.length + 7) & ~3);
    new DataView(bytes.buffer).setUint16(0, Math.max(0, value.length + 4 + wrongBy), true);
    bytes[2] = type;
    bytes.set(value, 4);
    return [...bytes];
  });
const message = fc
  .tuple(fc.array(tlv, { maxLength: 6 }), fc.nat(160))
  .map(([tlvs, length]) => Uint8Array.from([2, 0, 0, 100, ...tlvs.flat()]).subarray(0, length));

test('a message of NFLOG: any bytes are read or damaged, and what is read lies within', { timeout: 30_000 }, () => {
  let read = 0;
  fc.assert(
    fc.property(fc.oneof(message, fc.uint8Array({ maxLength: 200 })), (bytes) => {
      const found = readNflog(bytes);
      if (found === 'damaged') return;
      read += 1;
      expect(found.prefix.length).toBeLessThanOrEqual(128);
      expect(found.payload.buffer).toBe(bytes.buffer);
    }),
    RUNS,
  );
  expect(read).toBeGreaterThan(0);
});
