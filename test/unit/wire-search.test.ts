/** The search that the suite's captures rest on finds an inner address wherever it stands, and nothing where none does. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { ethernet, filler, type IpFields, icmp, ip, TCP_ACK, tcp, type Upper, udp } from '../frames.ts';
import { InnerForms } from '../inner-forms.ts';
import { searchCapture } from '../wire-search.ts';

const INNER = { ipv4: '10.20.0.2', ipv6: 'fd00:20::2' } as const;
const forms = new InnerForms(['10.20.0.0/16', 'fd00:20::/48'], [INNER.ipv4, INNER.ipv6]);
const OUT = { ipv4: ['203.0.113.1', '198.51.100.10'], ipv6: ['2001:db8:a::1', '2001:db8:51::10'] } as const;
const folder = mkdtempSync(join(tmpdir(), 'mtgate-wire-'));
afterAll(() => rmSync(folder, { recursive: true }));

/** As tcpdump writes frames, all of second 100. */
function capture(...frames: readonly Uint8Array[]): string {
  const header = Buffer.alloc(24);
  header.writeUInt32LE(0xa1b2c3d4);
  const records = frames.flatMap((frame) => {
    const record = Buffer.alloc(16);
    record.writeUInt32LE(100);
    record.writeUInt32LE(frame.length, 8);
    record.writeUInt32LE(frame.length, 12);
    return [record, Buffer.from(frame)];
  });
  const file = join(folder, 'one.pcap');
  writeFileSync(file, Buffer.concat([header, ...records]));
  return file;
}
const leaks = (...frames: readonly Uint8Array[]) => searchCapture(capture(...frames), forms, () => false).leaks;
const out = (upper: Upper, family: 'ipv4' | 'ipv6' = 'ipv4', fields: IpFields = {}) =>
  ethernet(ip(OUT[family][0], OUT[family][1], upper, fields));

const four = Buffer.from(address(INNER.ipv4).bytes.subarray(12));
const six = Buffer.from(address(INNER.ipv6).bytes);
const text = (content: string) => Buffer.from(`before ${content} after`);
const inBase64 = (content: string, before: number) =>
  text(Buffer.from(`${'x'.repeat(before)}${content}, and more`).toString('base64'));

describe('finds, in what is carried', () => {
  test.each<[string, Uint8Array]>([
    ['the bytes', four],
    ['the bytes of IPv6', six],
    ['the bytes, the other way round', Buffer.from(four).reverse()],
    ['the bytes of IPv6, the other way round', Buffer.from(six).reverse()],
    ['text', text('10.20.0.2')],
    ['text of an address that nobody named', text('10.20.77.3')],
    ['text of IPv6', text('fd00:20::2')],
    ['text of IPv6 that nobody shortened, in capitals', text('FD00:0020:0000:0000:0000:0000:0000:0002')],
    ['text of an IPv6 address that nobody named', text('fd00:20:0:7::9')],
    ['text of the mapped form', text('::ffff:10.20.0.2')],
    ['text of the mapped form in hexadecimal', text('::ffff:a14:2')],
    ['text of the mapped form in full', text('0000:0000:0000:0000:0000:FFFF:0A14:0002')],
    ['a number', text(String(0x0a140002))],
    ['hexadecimal', text('0a140002')],
    ['hexadecimal with colons, in capitals', text('0A:14:00:02')],
    ['hexadecimal of IPv6', text('fd000020000000000000000000000002')],
    ...[0, 1, 2].flatMap((before): [string, Uint8Array][] => [
      [`base64 of the text, ${before} bytes on`, inBase64('10.20.0.2', before)],
      [`base64 of the text of IPv6, ${before} bytes on`, inBase64('fd00:20::2', before)],
      [
        `base64 of the bytes of IPv6, ${before} bytes on`,
        text(Buffer.concat([Buffer.alloc(before), six, six]).toString('base64')),
      ],
    ]),
  ])('%s', (_, content) => {
    expect(leaks(out(udp(1, 2, content)))).toHaveLength(1);
    expect(leaks(out(tcp(1, 2, content, TCP_ACK), 'ipv6'))).toHaveLength(1);
  });
});

describe('finds, in what a packet is', () => {
  const quoted = ip(OUT.ipv4[1], INNER.ipv4, udp(1, 2, ''));
  const record = (type: number, content: Uint8Array) =>
    Uint8Array.from([type, 3, 3, content.length >> 8, content.length & 255, ...content]);
  test.each<[string, readonly Uint8Array[]]>([
    ['the source', [ethernet(ip(INNER.ipv4, OUT.ipv4[1], udp(1, 2, '')))]],
    ['a source that nobody named', [ethernet(ip('10.20.99.9', OUT.ipv4[1], udp(1, 2, '')))]],
    ['the source of IPv6', [ethernet(ip('fd00:20::99', OUT.ipv6[1], udp(1, 2, '')))]],
    ['an ICMP quote', [out(icmp('icmp', 3, 3, quoted))]],
    [
      'an ICMP quote of an address that nobody named',
      [out(icmp('icmp', 3, 3, ip(OUT.ipv4[1], '10.20.7.7', udp(1, 2, ''))))],
    ],
    ['an ICMPv6 quote', [out(icmp('icmpv6', 1, 4, ip(OUT.ipv6[1], INNER.ipv6, udp(1, 2, ''))), 'ipv6')]],
    ['an option of IPv4', [out(udp(1, 2, ''), 'ipv4', { options: Uint8Array.of(7, 7, 4, ...four, 0) })]],
    [
      'ARP',
      [
        ethernet(Uint8Array.of(0, 1, 8, 0, 6, 4, 0, 1, ...Buffer.alloc(6), ...four, ...Buffer.alloc(10)), {
          etherType: 0x806,
        }),
      ],
    ],
    [
      'a stream, across two segments',
      [out(tcp(1, 2, 'see 10.2', TCP_ACK, { sequence: 1 })), out(tcp(1, 2, '0.0.2 there', TCP_ACK, { sequence: 9 }))],
    ],
    ['an option of TCP', [out(tcp(1, 2, '', TCP_ACK, { options: [1, 1, 30, 8, 0x30, 3, ...four, 0, 0] }))]],
    ['a handshake of TLS, as bytes', [out(tcp(1, 2, record(22, four), TCP_ACK))]],
  ])('%s', (_, frames) => {
    expect(leaks(...frames)).not.toEqual([]);
  });

  test('nothing where there is none', () => {
    const ciphertext = out(tcp(1, 2, record(23, four), TCP_ACK)); // bytes by chance
    const others = ['110.20.0.2', '10.21.0.2', 'fd00:21::2', 'afd00:20::2', '1169082882'].map((one) =>
      out(udp(1, 2, text(one))),
    );
    expect(leaks(ciphertext, ...others, out(icmp('icmp', 8, 0, filler('echo'))))).toEqual([]);
  });

  test('what is exempt is counted, and the rest is not spared', () => {
    const shown = ethernet(ip(INNER.ipv4, OUT.ipv4[1], udp(1, 2, '')));
    const file = capture(shown, ethernet(ip(INNER.ipv4, '192.0.2.66', udp(1, 2, ''))));
    const { exempt, leaks: found } = searchCapture(
      file,
      forms,
      (source, destination, atMs) => source === INNER.ipv4 && destination === OUT.ipv4[1] && atMs === 100_000,
    );
    expect([exempt, found.length]).toEqual([1, 1]);
  });
});
