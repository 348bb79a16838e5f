/**
 * A server and a device that speak through grants: what each sends, and what
 * it must have become on the other side.
 */
import { PROTOCOL_NUMBERS, type Protocol } from '../../../agent/core/words.ts';
import { type IpFields, ip, raw, tcp, type Upper, udp } from '../../frames.ts';
import { devicePort, type Who } from './world.ts';

interface Peer {
  /** Another address than the server's. */
  readonly peer?: string;
  readonly peerPort?: number;
  /** Another external address than the first. */
  readonly external?: string;
  readonly device?: string;
  readonly content?: Uint8Array | string;
  readonly noChecksum?: boolean;
  readonly fields?: IpFields;
}
type Send = (port: number, other?: Peer) => Uint8Array;

export interface Traffic {
  /** From the server to an external port, and as the device has it. */
  readonly knock: Send;
  readonly arrived: Send;
  /** From the device's port behind an external one, and as the server has it. */
  readonly answer: Send;
  readonly sent: Send;
  /** A later fragment's share of what they say. */
  readonly piece: Upper;
}

export function trafficOf(who: Who, protocol: Protocol): Traffic {
  const upper = (from: number, to: number, content: Uint8Array | string, noChecksum = false) =>
    protocol === 'udp' ? udp(from, to, content, { noChecksum }) : tcp(from, to, content);
  const make = (inbound: boolean, outer: boolean, made: IpFields): Send => {
    return (port, { peer = who.server, peerPort = 5000, content, noChecksum, fields, ...other } = {}) => {
      const { external = who.external, device = who.device } = other;
      const [host, at] = outer ? [external, port] : [device, devicePort(port)];
      return inbound
        ? ip(peer, host, upper(peerPort, at, content ?? 'hello', noChecksum), { ...made, ...fields })
        : ip(host, peer, upper(at, peerPort, content ?? 'well?', noChecksum), { ...made, ...fields });
    };
  };
  return {
    knock: make(true, true, { hops: 57 }),
    arrived: make(true, false, { hops: 64 }),
    // Not to be cut, so its identification means nothing, and is none outside.
    answer: make(false, false, { hops: 61, dontFragment: true }),
    sent: make(false, true, { hops: 64, dontFragment: true, id: 0 }),
    piece: raw(PROTOCOL_NUMBERS[protocol], 16),
  };
}
