/** What was expected of a packet against what was seen of it, and how both are told to who reads a failure. */
import type { Arrival, Seen } from './gateway.ts';
import type { Expected } from './model.ts';
import type { Place } from './neighbourhood.ts';
import { assembled, type Packet, read } from './packet.ts';

const OWN_WORDS: readonly string[] = ['innerLeak', 'malformed'];

/** What is wrong with what was seen, or undefined. */
export function difference(expected: Expected, seen: Seen): string | undefined {
  const same = (a: readonly string[], b: readonly string[]) =>
    a.length === b.length && a.every((one, i) => one === b[i]);
  // What the gateway itself says may be stopped by the guard of the outside; and if it is for all of a link, its
  // own copy comes in there without a link header, which the gate takes for malformed.
  const counted = expected.mayAnswer ? seen.gate.filter((one) => !OWN_WORDS.includes(one)) : seen.gate;
  if (!same([...expected.gate].sort(), [...counted].sort()))
    return `the gate counts otherwise: ${seen.gate.join(', ') || 'nothing'}`;
  if (!same(expected.log, seen.log)) return `it was seen elsewhere: ${seen.log.join(', ') || 'nowhere'}`;
  if (seen.said.length > 0 && !expected.mayAnswer) return 'the gateway said something of its own';
  if (!expected.arrives) return seen.arrived.length > 0 && !expected.mayAnswer ? 'it arrived' : undefined;
  const whole = wholeOf(seen.arrived, expected.arrives.at);
  return typeof whole === 'string' ? whole : expected.arrives.check(whole);
}

/** The one that came, put together where it came in pieces. @returns what is wrong with what came instead */
function wholeOf(arrived: readonly Arrival[], at: Place): Packet | string {
  const elsewhere = arrived.find((one) => one.at !== at);
  if (elsewhere) return `came at ${elsewhere.at}, not at ${at}`;
  const pieces = arrived.map(({ bytes }) => bytes);
  const [first] = pieces;
  if (!first) return `did not come at ${at}`;
  if (!read(first).fragment) return pieces.length === 1 ? read(first) : `came ${pieces.length} times`;
  const whole = assembled(pieces);
  if (whole) return read(whole);
  // What a grant carries goes on piece by piece.
  return pieces.length === 1 ? read(first) : 'came in pieces that make no whole';
}

export function shown({ gate, log, arrived, said }: Seen): string {
  const frames = (word: string, list: Seen['arrived']) =>
    list.map(({ at, bytes }) => `${word} ${at} ${Buffer.from(bytes).toString('hex')}`);
  return [...gate, ...log, ...frames('arrived', arrived), ...frames('said', said)].join(', ') || 'nothing';
}

export function describe(
  from: Place,
  { source, destination, protocol, ports, icmp: message, tcp: segment, fragment, hops, isSteered }: Packet,
): string {
  return [
    `from ${from}: ${source.text} to ${destination.text}, protocol ${protocol}`,
    ports && `ports ${ports.source} to ${ports.destination}`,
    segment && `flags 0x${segment.flags.toString(16)} sequence ${segment.sequence}`,
    message && `type ${message.type} code ${message.code} id ${message.id}`,
    fragment && `fragment at ${fragment.offset}${fragment.more ? ', more to come' : ''}`,
    isSteered && 'options for the routers on the way',
    hops !== 64 && `hops ${hops}`,
  ]
    .filter(Boolean)
    .join(', ');
}
