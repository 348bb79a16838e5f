/**
 * The NAT record as syslog messages (RFC 5424): all that is said stands in the
 * structured data, by name. Over UDP one message a datagram (RFC 5426), over
 * TCP each behind its length (RFC 6587 3.4.1). Pure.
 */
import { addressOf, type Mapping, protocolName } from './mapping.ts';

/** local0, informational. */
const PRIORITY = 16 * 8 + 6;
/** Private elements carry an enterprise number; mtgate has none, so that of documentation (RFC 5612). */
const ELEMENT = 'mapping@32473';

/** That a mapping has begun, or that it has ended: then with both times. `gateway` names who says so. */
export function syslogMessage(gateway: string, row: Mapping, ended: boolean): string {
  const { endedMs, endedFromMs, beganMs, beganFromMs } = row;
  const at = ended ? (endedMs ?? beganMs) : beganMs;
  const said: readonly (readonly [name: string, value: string | number | null])[] = [
    ['protocol', protocolName(row.protocol)],
    ['external', addressOf(row.external).text],
    ['port', row.port],
    ['realm', row.realm],
    ['inner', addressOf(row.inner).text],
    ['innerPort', row.innerPort],
    ['device', row.device],
    ['grant', row.grant],
    ['server', row.server],
    ['began', isoTime(beganMs)],
    ['beganFrom', beganFromMs === null ? null : isoTime(beganFromMs)],
    ['ended', ended ? isoTime(at) : null],
    ['endedFrom', ended && endedFromMs !== null ? isoTime(endedFromMs) : null],
  ];
  const data = said.flatMap(([name, value]) => (value === null ? [] : [`${name}="${escaped(String(value))}"`]));
  const host = gateway.replace(/[^\x21-\x7e]/g, '?').slice(0, 255);
  return `<${PRIORITY}>1 ${isoTime(at)} ${host} mtgate - ${ended ? 'NATEND' : 'NATBEGIN'} [${ELEMENT} ${data.join(' ')}]`;
}

/** For a stream: the length in bytes stands before the message. */
export function framed(message: string): string {
  return `${Buffer.byteLength(message)} ${message}`;
}

function escaped(value: string): string {
  return value.replace(/["\\\]]/g, (one) => `\\${one}`);
}

function isoTime(ms: number): string {
  return new Date(ms).toISOString();
}
