/** RADIUS accounting on the wire: each attribute by octets from its RFC or TS, and each way to be wrong. */

import { describe, expect, test } from 'vitest';
import { address, prefix } from '../../agent/core/net.ts';
import type { AccountingEvent, SessionEvent } from '../../agent/directory/accounting.ts';
import { eventOf } from '../../agent/directory/attributes.ts';
import { type Drop, DropAccount } from '../../agent/directory/drops.ts';
import { readRequest, responseTo } from '../../agent/directory/radius.ts';
import { NOTHING_TOLD } from '../accounting.ts';
import {
  accountingRequest,
  accountingResponse,
  attribute,
  ON,
  octets,
  of3gpp,
  SECRET,
  SESSION,
  START,
  STOP,
  type Written,
} from '../radius.ts';

const SOURCE = address('10.0.0.9');
const ARRIVED_MS = Date.UTC(2026, 0, 1);

function read(datagram: Buffer): AccountingEvent | Drop {
  const request = readRequest(datagram, SECRET);
  return 'drop' in request ? request : eventOf(request.attributes, 'pgw-1', SOURCE, ARRIVED_MS);
}

function sessionOf(...attributes: readonly Buffer[]): SessionEvent {
  const event = read(accountingRequest([START, SESSION, ...attributes]));
  if (!('session' in event)) throw new Error(JSON.stringify(event));
  return event;
}

const dropOf = (attributes: readonly Buffer[], written: Written = {}) => read(accountingRequest(attributes, written));

const HERE = { nasMs: undefined, hereMs: ARRIVED_MS };

test('a packet whose every octet was computed elsewhere', () => {
  // coreutils: printf of the packet with zeros for the authenticator, then of the secret, through md5sum
  const datagram = octets('04 01 001f 348c35de47e3920dd7de6d1881e91e2a 2806 00000001 2c05 732d31');
  expect(read(datagram)).toMatchObject({ kind: 'start', session: 's-1' });
  expect(accountingRequest([START, SESSION], { identifier: 1 })).toEqual(datagram);
});

describe('events', () => {
  test.each([
    ['start', '00000001'],
    ['stop', '00000002'],
    ['interim', '00000003'],
  ])('%s is Acct-Status-Type %s, and needs no more than its session', (kind, value) => {
    expect(dropOf([attribute(40, value), SESSION])).toEqual({
      kind,
      nas: { client: 'pgw-1', id: '10.0.0.9' },
      time: HERE,
      session: 's-1',
      ...NOTHING_TOLD,
      stopsAll: false,
    });
  });

  test.each([
    ['on', '00000007'],
    ['off', '00000008'],
  ])('%s is Acct-Status-Type %s, of the NAS as a whole', (kind, value) => {
    expect(dropOf([attribute(40, value)])).toEqual({ kind, nas: { client: 'pgw-1', id: '10.0.0.9' }, time: HERE });
  });

  test('all that a PGW tells of a device with both families', () => {
    const event = sessionOf(
      attribute(4, '0a000063'),
      attribute(8, '0a140005'),
      attribute(30, '"IoT.Example.mnc001.mcc262.gprs"'),
      attribute(31, '"491715550100"'),
      attribute(32, '"pgw-1.example"'),
      attribute(55, '6955b900'),
      attribute(97, '00 40 fd00 0020 0000 0001'),
      attribute(96, '0000 0000 0000 0001'),
      attribute(123, '00 38 fd00 0020 0001 00'),
      attribute(168, 'fd00 0020 0000 0001 0000 0000 0000 0005'),
      of3gpp(attribute(1, '"262011234567890"')),
      of3gpp(attribute(2, 'ffffffff'), attribute(7, 'c0000263')),
      of3gpp(attribute(20, '"3520990017614823"'), attribute(28, '"meter-1@Meters.Example"')),
    );
    expect(event).toEqual({
      kind: 'start',
      nas: { client: 'pgw-1', id: 'pgw-1.example' },
      time: { nasMs: 0x6955b900 * 1_000, hereMs: ARRIVED_MS },
      session: 's-1',
      subscriber: { imsi: '262011234567890', msisdn: '491715550100', externalId: 'meter-1@meters.example' },
      apn: 'iot.example.mnc001.mcc262.gprs',
      ipv4: address('10.20.0.5'),
      ipv6Prefix: prefix('fd00:20:0:1::/64'),
      interfaceId: 1n,
      ipv6Address: address('fd00:20:0:1::5'),
      delegatedPrefix: prefix('fd00:20:1::/56'),
      stopsAll: false,
    });
  });

  test('the NAS is its NAS-Identifier, else its NAS-IP-Address, else its NAS-IPv6-Address, else where it came from', () => {
    const [name, ipv4] = [attribute(32, '"ggsn"'), attribute(4, '0a000063')];
    const ipv6 = attribute(95, '20010db8 00000000 00000000 00000009');
    expect(sessionOf(ipv6, ipv4, name).nas.id).toBe('ggsn');
    expect(sessionOf(ipv6, ipv4).nas.id).toBe('10.0.0.99');
    expect(sessionOf(ipv6).nas.id).toBe('2001:db8::9');
    expect(sessionOf().nas.id).toBe('10.0.0.9');
  });

  test('Acct-Delay-Time is how long the NAS has been trying; Event-Timestamp is not touched by it (RFC 2869 5.3)', () => {
    const { time } = sessionOf(attribute(41, '0000000a'), attribute(55, '00000064'));
    expect(time).toEqual({ nasMs: 100_000, hereMs: ARRIVED_MS - 10_000 });
  });

  test('3GPP-Session-Stop-Indicator counts with a stop, whatever its octet', () => {
    const indicator = of3gpp(attribute(11, 'ff'));
    expect(dropOf([STOP, SESSION, indicator])).toMatchObject({ kind: 'stop', stopsAll: true });
    expect(dropOf([STOP, SESSION, of3gpp(attribute(11, '00'))])).toMatchObject({ stopsAll: true });
    expect(dropOf([STOP, SESSION])).toMatchObject({ stopsAll: false });
    expect(dropOf([START, SESSION, indicator])).toMatchObject({ stopsAll: false });
  });

  test.each<[string, Buffer]>([
    ['3GPP-Charging-Id', attribute(2, '0001')],
    ['3GPP-GGSN-Address', attribute(7, '20010db8000000000000000000000007')],
    ['3GPP-GGSN-IPv6-Address', attribute(16, '0a000007')],
    ['3GPP-IMEISV', attribute(20, '"3520990017614"')],
    ['3GPP-IMEISV', attribute(20, '80')],
  ])('a Start whose %s is malformed is taken all the same, since nothing here reads it', (_, wrong) => {
    const imsi = attribute(1, '"262011234567890"');
    expect(sessionOf(attribute(8, '0a140005'), of3gpp(wrong, imsi), of3gpp(wrong))).toEqual({
      ...sessionOf(attribute(8, '0a140005'), of3gpp(imsi)),
      ipv4: address('10.20.0.5'),
    });
  });

  test('an address that is none is not told', () => {
    for (const none of ['00000000', 'ffffffff', 'fffffffe']) expect(sessionOf(attribute(8, none)).ipv4).toBeUndefined();
    expect(sessionOf(attribute(168, '00'.repeat(16))).ipv6Address).toBeUndefined();
  });

  test('a Calling-Station-Id that is no MSISDN is not one', () => {
    expect(sessionOf(attribute(31, '"+491715550100"')).subscriber.msisdn).toBe('491715550100');
    expect(sessionOf(attribute(31, '"00-10-A4-23-19-C0"')).subscriber.msisdn).toBeUndefined();
  });

  test('a Framed-IPv6-Prefix may have more octets than its length needs, and as few', () => {
    expect(sessionOf(attribute(97, `0040 fd000020000000010000000000000000`)).ipv6Prefix?.text).toBe('fd00:20:0:1::/64');
    expect(sessionOf(attribute(97, '0000')).ipv6Prefix?.text).toBe('::/0');
    expect(sessionOf(attribute(97, '0003 20')).ipv6Prefix?.text).toBe('2000::/3');
    expect(sessionOf(attribute(97, `0080 fd000020000000010000000000000001`)).ipv6Prefix?.text).toBe(
      'fd00:20:0:1::1/128',
    );
  });

  test('what is not known is stepped over: other attributes, other vendors in whatever format, Class and State', () => {
    const others = [attribute(1, '"user"'), attribute(25, 'ff00'), attribute(25, 'ff01'), attribute(222, '')];
    const vendor = attribute(26, '00000009 ff ff ff');
    expect(sessionOf(...others, vendor, vendor, of3gpp(attribute(5, '"99"'), attribute(5, '"98"')))).toEqual(
      sessionOf(),
    );
  });

  test('octets behind Length are padding (RFC 2865 3)', () => {
    expect(read(Buffer.concat([accountingRequest([ON]), Buffer.alloc(9, 0xff)]))).toMatchObject({ kind: 'on' });
  });

  test('a Message-Authenticator may be anywhere, and must be right', () => {
    expect(dropOf([ON], { message: true })).toMatchObject({ kind: 'on' });
    const behind = accountingRequest([ON, attribute(80, Buffer.alloc(16))]);
    expect(read(behind)).toEqual({ drop: 'wrongMessageAuthenticator' });
    const twice = [ON, attribute(80, Buffer.alloc(16))];
    expect(dropOf(twice, { message: true })).toEqual({ drop: 'attributeTwice', attribute: 'Message-Authenticator' });
    const short = [ON, attribute(80, Buffer.alloc(15))];
    expect(dropOf(short)).toEqual({ drop: 'malformedAttribute', attribute: 'Message-Authenticator' });
  });
});

describe('what is dropped', () => {
  const good = accountingRequest([ON]);
  const withLength = (length: number) => {
    const packet = Buffer.from(good);
    packet.writeUInt16BE(length, 2);
    return packet;
  };

  test.each<[string, Buffer, Drop]>([
    ['nothing', Buffer.alloc(0), { drop: 'truncated' }],
    ['19 octets', good.subarray(0, 19), { drop: 'truncated' }],
    ['an octet less than Length', good.subarray(0, -1), { drop: 'truncated' }],
    ['Length 0', withLength(0), { drop: 'wrongLength' }],
    ['Length 19', withLength(19), { drop: 'wrongLength' }],
    ['Length 4097', Buffer.concat([withLength(4097), Buffer.alloc(5000)]), { drop: 'wrongLength' }],
    ['a Length that leaves attributes out', withLength(20), { drop: 'wrongAuthenticator' }],
    ['an Access-Request', accountingRequest([ON], { code: 1 }), { drop: 'notAccounting' }],
    ['an Accounting-Response', accountingResponse(good), { drop: 'notAccounting' }],
    [
      'another secret',
      accountingRequest([ON], { secret: Buffer.from('another secret!!') }),
      { drop: 'wrongAuthenticator' },
    ],
    [
      'the secret and a zero octet',
      accountingRequest([ON], { secret: Buffer.concat([SECRET, Buffer.of(0)]) }),
      { drop: 'wrongAuthenticator' },
    ],
    ['no attributes', accountingRequest([]), { drop: 'missingStatusType' }],
  ])('%s', (_, datagram, drop) => {
    expect(read(datagram)).toEqual(drop);
  });

  test('the longest packet is read', () => {
    const fill = Array.from({ length: 16 }, () => attribute(25, Buffer.alloc(253)));
    const longest = [...fill.slice(1), attribute(25, Buffer.alloc(4096 - 20 - 6 - 15 * 255 - 2)), ON];
    expect(accountingRequest(longest).length).toBe(4096);
    expect(dropOf(longest)).toMatchObject({ kind: 'on' });
  });

  test.each<[string, string]>([
    ['of length 0, which would loop', '2c00'],
    ['of length 1', '2c01'],
    ['of one octet', '2c'],
    ['past the end', '2c05 7331'],
    ['the longest, past the end', 'ffff'],
  ])('an attribute %s', (_, written) => {
    expect(dropOf([ON, octets(written)])).toEqual({ drop: 'malformedAttribute' });
  });

  test.each<[string, string]>([
    ['without a vendor', '0028af'],
    ['whose attribute has length 0', '000028af 0100'],
    ['whose attribute overruns', '000028af 0104 31'],
    ['with one octet too many', '000028af 0103 31 01'],
  ])('a Vendor-Specific of 3GPP %s', (_, written) => {
    expect(dropOf([ON, attribute(26, written)])).toMatchObject({ drop: 'malformedAttribute' });
  });

  test.each<[string, Buffer]>([
    ['NAS-IP-Address', attribute(4, '0a0000')],
    ['Framed-IP-Address', attribute(8, '0a00000000')],
    ['Called-Station-Id', attribute(30, '')],
    ['Called-Station-Id', attribute(30, '"iot\0"')],
    ['Calling-Station-Id', attribute(31, '"4917\n"')],
    ['Acct-Delay-Time', attribute(41, '"10"')],
    ['Acct-Session-Id', attribute(44, '')],
    ['Event-Timestamp', attribute(55, '0000000000000000')],
    ['Framed-Interface-Id', attribute(96, '01')],
    ['Framed-IPv6-Prefix', attribute(97, '')],
    ['Framed-IPv6-Prefix', attribute(97, '00')],
    ['Framed-IPv6-Prefix', attribute(97, '01 40 fd00002000000001')],
    ['Framed-IPv6-Prefix', attribute(97, '00 40 fd000020000000')],
    ['Framed-IPv6-Prefix', attribute(97, '00 81 fd000020000000010000000000000000')],
    ['Framed-IPv6-Prefix', attribute(97, '00 ff fd000020000000010000000000000000')],
    ['Framed-IPv6-Prefix', attribute(97, '00 40 fd00002000000001000000000000000000')],
    ['Framed-IPv6-Prefix', attribute(97, '00 40 fd0000200000000180')],
    ['Framed-IPv6-Prefix', attribute(97, '00 3f fd00002000000001')],
    ['Framed-IPv6-Prefix', attribute(97, '00 60 00000000000000000000ffff')],
    ['Delegated-IPv6-Prefix', attribute(123, '00 38 fd00002000010001')],
    ['Framed-IPv6-Address', attribute(168, '0a000005')],
    ['Framed-IPv6-Address', attribute(168, '00000000000000000000ffff0a140005')],
    ['3GPP-IMSI', of3gpp(attribute(1, '"26201123456789012"'))],
    ['3GPP-IMSI', of3gpp(attribute(1, ''))],
    ['3GPP-Session-Stop-Indicator', of3gpp(attribute(11, ''))],
    ['3GPP-External-Identifier', of3gpp(attribute(28, '"meter-1"'))],
  ])('a %s that is none', (name, wrong) => {
    expect(dropOf([START, wrong])).toEqual({ drop: 'malformedAttribute', attribute: name });
  });

  test.each<[string, Buffer]>([
    ['Called-Station-Id', attribute(30, 'ff696f74')],
    ['Called-Station-Id', attribute(30, 'c080')],
    ['Acct-Session-Id', attribute(44, 'eda080')],
    ['3GPP-IMSI', of3gpp(attribute(1, '80'))],
  ])('a %s that is not UTF-8', (name, wrong) => {
    expect(dropOf([START, wrong])).toEqual({ drop: 'notUtf8', attribute: name });
  });

  test.each<[string, Buffer, Buffer]>([
    ['Acct-Status-Type', STOP, STOP],
    ['Framed-IP-Address', attribute(8, '0a140005'), attribute(8, '0a140006')],
    ['Framed-IP-Address', attribute(8, '00000000'), attribute(8, '0a140006')],
    ['Framed-IPv6-Prefix', attribute(97, '0008fd'), attribute(97, '0008fd')],
    ['3GPP-IMSI', of3gpp(attribute(1, '"262011234567890"')), of3gpp(attribute(1, '"262011234567891"'))],
  ])('a second %s', (name, first, second) => {
    expect(dropOf([first, SESSION, second])).toEqual({ drop: 'attributeTwice', attribute: name });
  });

  test.each(['00000000', '00000004', '00000009', '0000000f', '07000000'])('Acct-Status-Type %s', (value) => {
    expect(dropOf([attribute(40, value), SESSION])).toEqual({ drop: 'unknownStatusType' });
  });

  test('a start without a session', () => {
    expect(dropOf([START])).toEqual({ drop: 'missingSession' });
  });
});

describe('answers', () => {
  const answerTo = (datagram: Buffer) => {
    const request = readRequest(datagram, SECRET);
    if ('drop' in request) throw new Error(request.drop);
    return responseTo(request, SECRET);
  };

  test('Code 5, the Identifier, and the Response Authenticator', () => {
    const request = accountingRequest([ON], { identifier: 255 });
    expect(answerTo(request)).toEqual(accountingResponse(request));
  });

  test('every Proxy-State, in its order, and nothing else', () => {
    const [first, second] = [attribute(33, '"first"'), attribute(33, 'ff00')];
    const request = accountingRequest([first, ON, attribute(25, '"class"'), second]);
    expect(answerTo(request)).toEqual(accountingResponse(request, [first, second]));
  });

  test('no Message-Authenticator, even to a request that had one', () => {
    const request = accountingRequest([ON], { message: true });
    expect(answerTo(request)).toEqual(accountingResponse(request));
  });
});

test('drops are all counted; the log has a line a minute for each client and reason', () => {
  const account = new DropAccount();
  expect(account.count('pgw-1', 'notUtf8', 1_000)).toBe(0);
  expect(account.count('pgw-1', 'notUtf8', 60_999)).toBeUndefined();
  expect(account.count('pgw-1', 'truncated', 60_999)).toBe(0);
  expect(account.count(undefined, 'unknownClient', 60_999)).toBe(0);
  expect(account.count('pgw-1', 'notUtf8', 61_000)).toBe(1);
  expect(account.count('pgw-1', 'notUtf8', 61_001)).toBeUndefined();
  expect(account.counts()).toEqual([
    { client: 'pgw-1', reason: 'notUtf8', count: 4 },
    { client: 'pgw-1', reason: 'truncated', count: 1 },
    { client: undefined, reason: 'unknownClient', count: 1 },
  ]);
});
