/**
 * Who a session is of, as far as a NAS tells: one subscriber from another, and
 * what he is called where no registry knows him (TS 29.061 16.4.7; TS 23.003).
 */
import type { Nas, SessionEvent } from './accounting.ts';
import type { Unregistered } from './binding.ts';

/** By what stands for his names (core/identities.ts); as they were told only where they are kept. */
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
  const clear = (known.clear ?? more.clear) && { ...more.clear, ...known.clear };
  return {
    imsi: known.imsi ?? more.imsi,
    msisdn: known.msisdn ?? more.msisdn,
    externalId: known.externalId ?? more.externalId,
    ...(clear && { clear }),
  };
}

/** For the operator's log. */
export function subscriberText(subscriber: Subscriber): string {
  return subscriber.externalId ?? nameOf(subscriber) ?? 'a subscriber without a name';
}

/** The holder that a subscriber is whom the registry does not know; without any name it is the session itself. */
export function unregistered(subscriber: Subscriber, session: string): Unregistered {
  return (nameOf(subscriber) ?? `session:${session}`).replaceAll('@', '%40') as Unregistered;
}

function nameOf({ imsi, msisdn, clear = {} }: Subscriber): string | undefined {
  if (imsi) return `imsi:${clear.imsi ?? imsi}`;
  return msisdn && `msisdn:${clear.msisdn ?? msisdn}`;
}

/** One text a NAS, and a session of it, for maps. */
export function nasKey({ client, id }: Nas): string {
  return `${client} ${id}`;
}

export function sessionKey(nas: Nas, id: string): string {
  return `${nasKey(nas)} ${id}`;
}
