/**
 * What a NAS (GGSN, PGW, SMF) tells by RADIUS accounting, as a value: a
 * session began, goes on or ended, or the NAS itself did (RFC 2866; TS 29.061
 * clause 16, TS 29.561 clause 11). What follows of it for bindings is the
 * directory's to say.
 *
 * An event is authentic and well-formed; whether it is true, late or told
 * before is not known here. Texts of a NAS hold no control characters.
 */
import type { ClearNames } from '../core/identities.ts';
import type { Address, Prefix } from '../core/net.ts';
import type { ExternalId, Imsi, Msisdn } from '../core/words.ts';

/** Who speaks. Sessions are named by their NAS together with its client, so that no client can speak of another's. */
export interface Nas {
  /** The client in agent.yaml whose address and secret the request had. */
  readonly client: string;
  /** NAS-Identifier, else NAS-IP-Address, else NAS-IPv6-Address, else the source address. */
  readonly id: string;
}

/** When it happened, by two clocks; either may be wrong, and not by the same. UTC, ms. */
export interface EventTime {
  /** By the clock of the NAS: Event-Timestamp (RFC 2869 5.3, whole seconds). */
  readonly nasMs: number | undefined;
  /** By ours: the arrival less Acct-Delay-Time, for which the NAS had been trying (RFC 2866 5.2). */
  readonly hereMs: number;
}

/** The NAS begins or ends accounting: what sessions it had are over. */
export interface NasEvent {
  readonly kind: 'on' | 'off';
  readonly nas: Nas;
  readonly time: EventTime;
}

export interface SessionEvent {
  readonly kind: 'start' | 'interim' | 'stop';
  readonly nas: Nas;
  readonly time: EventTime;
  /** Acct-Session-Id: unique within the NAS only. */
  readonly session: string;
  /** As far as it was told; nothing at all is told of some. */
  readonly subscriber: {
    readonly imsi: Imsi | undefined;
    readonly msisdn: Msisdn | undefined;
    readonly externalId: ExternalId | undefined;
    /** IMSI and MSISDN as they were told, where they are kept and the two above stand for them. */
    readonly clear?: ClearNames;
  };
  /** Called-Station-Id in lower case, whatever it is: an APN or DNN, perhaps with its operator identifier. */
  readonly apn: string | undefined;
  readonly ipv4: Address | undefined;
  readonly ipv6Prefix: Prefix | undefined;
  /** The low 64 bits that the NAS gave the device for its first address in `ipv6Prefix`. */
  readonly interfaceId: bigint | undefined;
  readonly ipv6Address: Address | undefined;
  readonly delegatedPrefix: Prefix | undefined;
  /** 3GPP-Session-Stop-Indicator: with this stop the last bearer has gone, and the whole IP-CAN session with it. */
  readonly stopsAll: boolean;
}

export type AccountingEvent = NasEvent | SessionEvent;

/**
 * What became of an event. `done`: the change is durable and in the kernel.
 * `refused`: it will never be made. Both are answered, or the NAS would repeat
 * it for ever. `later`: it could not be made now; without an answer the NAS
 * sends it again.
 */
export type Outcome = 'done' | 'refused' | 'later';
