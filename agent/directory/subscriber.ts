/**
 * Who a session is of, as far as a NAS tells: one subscriber from another, and
 * what he is called where no registry knows him (TS 29.061 16.4.7; TS 23.003).
 */
import type { Nas, SessionEvent } from './accounting.ts';
import type { Unregistered } from './binding.ts';

export type Subscriber = SessionEvent['subscriber'];

/** IMSI tells one subscriber from another, else MSISDN, else the external identifier; who tells nothing is no other. */
export function isSameSubscriber(a: Subscriber, b: Subscriber): boolean {
  if (a.imsi && b.imsi) return a.imsi === b.imsi;
  if (a.msisdn && b.msisdn) return a.msisdn === b.msisdn;
  return !a.externalId || !b.externalId || a.externalId === b.externalId;
}

export function hasIdentity({ imsi, msisdn, externalId }: Subscriber): boolean {
  return (imsi ?? msisdn ?? externalId) !== undefined;
}

/** What is known of one subscriber after one more event. */
export function joined(known: Subscriber, more: Subscriber): Subscriber {
  return {
    imsi: known.imsi ?? more.imsi,
    msisdn: known.msisdn ?? more.msisdn,
    externalId: known.externalId ?? more.externalId,
  };
}

/** For the operator's log. */
export function subscriberText({ imsi, msisdn, externalId }: Subscriber): string {
  return externalId ?? (imsi ? `imsi:${imsi}` : msisdn ? `msisdn:${msisdn}` : 'a subscriber without a name');
}

/** The holder that a subscriber is whom the registry does not know; without any name it is the session itself. */
export function unregistered({ imsi, msisdn }: Subscriber, session: string): Unregistered {
  const name = imsi ? `imsi:${imsi}` : msisdn ? `msisdn:${msisdn}` : `session:${session}`;
  return name.replaceAll('@', '%40') as Unregistered;
}

/** One text a NAS, and a session of it, for maps. */
export function nasKey({ client, id }: Nas): string {
  return `${client} ${id}`;
}

export function sessionKey(nas: Nas, id: string): string {
  return `${nasKey(nas)} ${id}`;
}
