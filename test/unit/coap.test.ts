/** Exchanges of CoAP (RFC 7252) against a clock in the test's hand: what goes out when, and what becomes of them. */
import { generate, type Packet, parse } from 'coap-packet';
import fc from 'fast-check';
import { beforeEach, describe, expect, test } from 'vitest';
import { address } from '../../agent/core/net.ts';
import { CoapExchanges } from '../../agent/triggers/coap.ts';
import type { DeliveryOutcome } from '../../agent/triggers/delivery.ts';
import { HandClock, seededRandom } from '../clock.ts';

const METER = address('10.20.0.5');
const OTHER = address('10.20.0.6');
const PORT = 5683;
/** RFC 7252 4.8.2: MAX_TRANSMIT_WAIT, EXCHANGE_LIFETIME. */
const TRANSMIT_WAIT = 93;
const LIFETIME = 247;

let clock: HandClock;
let sent: { atMs: number; to: string; bytes: Buffer }[];
let leaves: boolean;
let coap: CoapExchanges;
let startedMs: number;

function exchanges(most = 100): CoapExchanges {
  return new CoapExchanges({
    clock,
    random: seededRandom(8),
    path: ['mtc', 'trigger'],
    most,
    send: async (to, bytes) => {
      sent.push({ atMs: clock.nowMs() - startedMs, to: `${to.address.text}:${to.port}`, bytes });
      return leaves;
    },
  });
}

beforeEach(() => {
  clock = new HandClock();
  startedMs = clock.nowMs();
  sent = [];
  leaves = true;
  coap = exchanges();
});

/** Lets time pass, in steps of a tick. */
async function pass(seconds: number): Promise<void> {
  for (let step = 0; step < seconds * 20; step += 1) {
    clock.pass(0.05);
    coap.pass();
    if (step % 20 === 0) await new Promise(setImmediate);
  }
  await new Promise(setImmediate);
}

function begin(to = METER, signal = new AbortController().signal, payload = Buffer.from('wake up')) {
  const state: { outcome: DeliveryOutcome | 'under way' } = { outcome: 'under way' };
  void coap.begin({ address: to, port: PORT }, payload, signal).then((outcome) => {
    state.outcome = outcome;
  });
  return state;
}

const lastPacket = () => parse(sent.at(-1)?.bytes as Buffer);
const says = (packet: Packet, from = METER.text, port = PORT) => coap.arrived(from, port, generate(packet));
const settled = () => new Promise(setImmediate);

test('a trigger is a confirmable POST to the path of agent.yaml', () => {
  begin();
  const { options, payload, ...packet } = lastPacket();
  expect(packet).toMatchObject({ code: '0.02', confirmable: true, ack: false, reset: false });
  expect(packet.token).toHaveLength(8);
  expect(options.map(({ name, value }) => [name, name === 'Uri-Path' ? value.toString() : [...value]])).toEqual([
    ['Uri-Path', 'mtc'],
    ['Uri-Path', 'trigger'],
    ['Content-Format', [42]],
  ]);
  expect(payload.toString()).toBe('wake up');
  expect(sent).toMatchObject([{ to: '10.20.0.5:5683' }]);
});

test('without a payload the message has none, and no format of one', () => {
  begin(METER, undefined, Buffer.alloc(0));
  expect(sent[0]?.bytes.includes(0xff, 12)).toBe(false);
  expect(lastPacket().options.map(({ name }) => name)).toEqual(['Uri-Path', 'Uri-Path']);
});

test('the largest payload fits into the message that RFC 7252 4.6 allows; a larger one is sent to nobody', async () => {
  begin(METER, undefined, Buffer.alloc(1024));
  expect(sent[0]?.bytes.length).toBeLessThanOrEqual(1152);
  const larger = begin(OTHER, undefined, Buffer.alloc(1025));
  await settled();
  expect(larger.outcome).toBe('rejected');
  expect(sent).toHaveLength(1);
});

describe('what becomes of it', () => {
  test('a piggybacked 2.xx: acknowledged', async () => {
    const state = begin();
    const { messageId, token } = lastPacket();
    expect(says({ code: '2.04', ack: true, messageId, token })).toBe(true);
    await settled();
    expect(state.outcome).toBe('acknowledged');
    await pass(TRANSMIT_WAIT);
    expect(sent).toHaveLength(1);
    expect(coap.isIdle).toBe(true);
  });

  for (const code of ['4.04', '5.03'])
    test(`a piggybacked ${code}: rejected`, async () => {
      const state = begin();
      const { messageId, token } = lastPacket();
      says({ code, ack: true, messageId, token });
      await settled();
      expect(state.outcome).toBe('rejected');
    });

  test('a reset: rejected', async () => {
    const state = begin();
    says({ code: '0.00', reset: true, messageId: lastPacket().messageId });
    await settled();
    expect(state.outcome).toBe('rejected');
  });

  test('an empty ACK stops retransmission; the response that follows decides, and is acknowledged', async () => {
    const state = begin();
    const { messageId, token } = lastPacket();
    says({ code: '0.00', ack: true, messageId });
    await pass(20);
    expect(state.outcome).toBe('under way');
    expect(sent).toHaveLength(1);
    says({ code: '4.00', confirmable: true, messageId: 77, token });
    await settled();
    expect(state.outcome).toBe('rejected');
    expect(lastPacket()).toMatchObject({ code: '0.00', ack: true, messageId: 77 });
  });

  test('an empty ACK and no response: the device has it', async () => {
    const state = begin();
    says({ code: '0.00', ack: true, messageId: lastPacket().messageId });
    await pass(29);
    expect(state.outcome).toBe('under way');
    await pass(2);
    expect(state.outcome).toBe('acknowledged');
    expect(sent).toHaveLength(1);
  });

  test('a response without an ACK before it counts as one (5.2.2)', async () => {
    const state = begin();
    says({ code: '2.01', confirmable: false, messageId: 9, token: lastPacket().token });
    await settled();
    expect(state.outcome).toBe('acknowledged');
  });

  test('silence: sent again four times, each time after twice as long; then unanswered, within MAX_TRANSMIT_WAIT', async () => {
    const state = begin();
    await pass(TRANSMIT_WAIT + 1);
    expect(state.outcome).toBe('unanswered');
    expect(sent).toHaveLength(5);
    expect(new Set(sent.map(({ bytes }) => bytes.toString('hex'))).size).toBe(1);
    const waits = sent.slice(1).map(({ atMs }, i) => atMs - (sent[i]?.atMs ?? 0));
    const [first = 0] = waits;
    expect(first).toBeGreaterThanOrEqual(2_000);
    expect(first).toBeLessThanOrEqual(3_050);
    for (const [i, wait] of waits.entries()) expect(Math.abs(wait - first * 2 ** i)).toBeLessThanOrEqual(50 * 2 ** i);
    expect(coap.size).toBe(0);
    expect(coap.isIdle).toBe(true);
  });

  test('an ACK to the fourth retransmission is heard', async () => {
    const state = begin();
    await pass(50);
    expect(sent).toHaveLength(5);
    says({ code: '2.04', ack: true, messageId: lastPacket().messageId, token: lastPacket().token });
    await settled();
    expect(state.outcome).toBe('acknowledged');
  });

  test('what does not leave this host: not sent; a later loss of the way is as a loss on it', async () => {
    leaves = false;
    const never = begin();
    await settled();
    expect(never.outcome).toBe('notSent');
    leaves = true;
    const once = begin(OTHER);
    await settled();
    leaves = false;
    await pass(TRANSMIT_WAIT + 1);
    expect(once.outcome).toBe('unanswered');
  });

  test('given up: nothing more is sent, and what is known is said', async () => {
    const [waiting, sentOnce, heard] = [new AbortController(), new AbortController(), new AbortController()];
    const first = begin(METER, sentOnce.signal);
    const behind = begin(METER, waiting.signal);
    const acknowledged = begin(OTHER, heard.signal);
    await settled();
    says({ code: '0.00', ack: true, messageId: lastPacket().messageId }, OTHER.text);
    for (const one of [waiting, sentOnce, heard]) one.abort();
    await settled();
    expect([first, behind, acknowledged].map(({ outcome }) => outcome)).toEqual([
      'unanswered',
      'notSent',
      'acknowledged',
    ]);
    await pass(TRANSMIT_WAIT);
    expect(sent).toHaveLength(2);
    const late = begin(METER, waiting.signal);
    await settled();
    expect(late.outcome).toBe('notSent');
  });
});

describe('one device at a time', () => {
  test('NSTART is 1: the next trigger waits for the end of the one before', async () => {
    const first = begin();
    const second = begin();
    begin(OTHER);
    expect(sent.map(({ to }) => to)).toEqual(['10.20.0.5:5683', '10.20.0.6:5683']);
    clock.pass(1);
    const { messageId, token } = parse(sent[0]?.bytes as Buffer);
    says({ code: '2.04', ack: true, messageId, token });
    await settled();
    expect(first.outcome).toBe('acknowledged');
    expect(sent).toHaveLength(3);
    expect(lastPacket().messageId).not.toBe(messageId);
    says({ code: '2.04', ack: true, messageId: lastPacket().messageId, token: lastPacket().token });
    await settled();
    expect(second.outcome).toBe('acknowledged');
  });

  test('no message id comes again at a device within EXCHANGE_LIFETIME, however fast it answers', async () => {
    const seen = new Map<number, number>();
    let least = Number.POSITIVE_INFINITY;
    coap = exchanges(4_000);
    for (let i = 0; i < 4_000; i += 1) begin();
    for (let asked = 0; asked < sent.length; ) {
      const { messageId, token } = parse(sent[asked]?.bytes as Buffer);
      const nowMs = clock.nowMs();
      least = Math.min(least, nowMs - (seen.get(messageId) ?? Number.NEGATIVE_INFINITY));
      seen.set(messageId, nowMs);
      says({ code: '2.04', ack: true, messageId, token });
      asked += 1;
      if (asked === sent.length) await pass(asked % 5 === 0 ? 1.9 : 0.1);
    }
    expect(sent).toHaveLength(4_000);
    expect(clock.nowMs() - startedMs).toBeGreaterThan(LIFETIME * 2 * 1_000);
    expect(least).toBeGreaterThan(LIFETIME * 1_000);
  });

  test('as many are under way as may; room says how many more', async () => {
    coap = exchanges(3);
    for (const host of [METER, METER, OTHER]) begin(host);
    expect(coap.room).toBe(0);
    const fourth = begin(address('10.20.0.9'));
    await settled();
    expect(fourth.outcome).toBe('notSent');
    expect(sent).toHaveLength(2);
  });
});

describe('what others say changes nothing', () => {
  test('another device, another port, another message, another token', async () => {
    const state = begin();
    const { messageId, token } = lastPacket();
    const strange = Buffer.from(token).fill(0);
    const said = [
      says({ code: '2.04', ack: true, messageId, token }, OTHER.text),
      says({ code: '0.00', ack: true, messageId }, OTHER.text),
      says({ code: '0.00', reset: true, messageId }, METER.text, PORT + 1),
      says({ code: '0.00', ack: true, messageId: messageId ^ 1 }),
      says({ code: '0.00', reset: true, messageId: messageId ^ 1 }),
      says({ code: '2.04', ack: true, messageId: messageId ^ 1, token }),
      says({ code: '2.04', ack: true, messageId, token: strange }),
      says({ code: '2.04', confirmable: false, messageId: 5, token: strange }),
      says({ code: '0.01', ack: true, messageId, token }), // a request that acknowledges
      says({ code: '3.01', ack: true, messageId, token }), // a class that there is none of
    ];
    expect(said).toEqual(said.map(() => false));
    await settled();
    expect(state.outcome).toBe('under way');
    await pass(TRANSMIT_WAIT + 1);
    expect(state.outcome).toBe('unanswered');
    expect(sent).toHaveLength(5);
  });

  test('a confirmable message of no exchange is answered by a reset, and of a flood only some', () => {
    says({ code: '2.05', confirmable: true, messageId: 41, token: Buffer.from('old') });
    expect(lastPacket()).toMatchObject({ code: '0.00', reset: true, messageId: 41 });
    says({ code: 'GET', confirmable: true, messageId: 42 });
    says({ code: '0.00', confirmable: true, messageId: 43 }); // a ping
    expect(sent.map(({ bytes }) => parse(bytes).messageId)).toEqual([41, 42, 43]);
    for (let i = 0; i < 10_000; i += 1) says({ code: 'GET', confirmable: true, messageId: i });
    expect(sent).toHaveLength(100);
    clock.pass(1);
    for (let i = 0; i < 10_000; i += 1) says({ code: 'GET', confirmable: true, messageId: i });
    expect(sent).toHaveLength(200);
    expect(sent.every(({ bytes }) => bytes.length === 4)).toBe(true);
  });

  test('what is no CoAP message is nothing, whatever its bytes', () => {
    const state = begin();
    for (const hex of ['', '60', '6000', '600000', '6f000001', '69440001aabbccddeeff00112233', '20440001', '6044ffff'])
      expect(coap.arrived(METER.text, PORT, Buffer.from(hex, 'hex')), hex).toBe(false);
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 3_000 }), (bytes) => {
        coap.arrived(METER.text, PORT, Buffer.from(bytes));
      }),
      { numRuns: 500 },
    );
    const whole = generate({ code: '2.04', ack: true, messageId: lastPacket().messageId, token: Buffer.alloc(8, 1) });
    fc.assert(
      fc.property(fc.nat(whole.length - 1), fc.nat(255), (at, byte) => {
        const bent = Buffer.from(whole);
        bent[at] = byte;
        coap.arrived(METER.text, PORT, bent);
        coap.arrived(METER.text, PORT, bent.subarray(0, at));
      }),
    );
    expect(state.outcome).toBe('under way');
  });
});
