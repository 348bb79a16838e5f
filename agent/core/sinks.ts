/**
 * Sinks: where events are pushed to. Named in the rule files alone, so that no
 * one who asks by the API can have the gateway send to where they please; a
 * request may name a place below a sink of its server, and nothing else.
 *
 * A sink is an https URL with a DNS name. What the name leads to is judged
 * when it is connected (reports/sink-addresses.ts), not here.
 */

/** What an MTC user can be told of by a push. */
export const MTC_USER_EVENTS = ['denials', 'refusals'] as const;
/** What an MTC server can be told of. */
export const SERVER_EVENTS = ['grants'] as const;
export type SinkEvents = (typeof MTC_USER_EVENTS)[number] | (typeof SERVER_EVENTS)[number];

export interface Sink {
  readonly name: string;
  /** As the URL standard writes it. */
  readonly url: string;
  readonly events: readonly SinkEvents[];
  /** The name of the CA file in agent.yaml by which it is verified; absent: the public CAs. */
  readonly ca?: string;
}

/** The longest that is taken: what comes back in headers and records is bounded by it. */
const LONGEST_URL = 1024;
const LABEL = '[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?';
/** A fully qualified name; its last label is not all digits (it would read as IPv4). */
const DNS_NAME = new RegExp(`^(${LABEL}\\.)+(?=[a-z0-9-]*[a-z-])${LABEL}$`);
/** What servers read as `.`, `/` or a backslash, and a comparison of paths does not. */
const HIDDEN = /%(2e|2f|5c)/i;

/** A sink's URL in its one spelling; or why it is none, as `an https URL …`. */
export function readSinkUrl(text: string): URL | string {
  if (text.length > LONGEST_URL) return `at most ${LONGEST_URL} characters`;
  if (!/^https:\/\/[!-[\]-~]+$/i.test(text)) return 'the form https://NAME/PATH, without spaces';
  if (text.includes('#')) return 'no fragment (#…)';
  const url = URL.canParse(text) ? new URL(text) : undefined;
  if (!url) return 'the form https://NAME/PATH';
  if (url.username !== '' || url.password !== '' || /^https:\/\/[^/?]*@/i.test(text)) return 'no user and no password';
  if (url.hostname.startsWith('[') || /^[\d.]+$/.test(url.hostname)) return 'a DNS name instead of an IP address';
  if (url.hostname.length > 253 || !DNS_NAME.test(url.hostname)) return 'a full DNS name such as sink.acme.example';
  if (url.port === '0') return 'a port from 1 to 65535';
  if (HIDDEN.test(url.pathname)) return 'no %2E, %2F or %5C in its path';
  return url;
}

/** The sink that a URL lies below: of the same origin, its path within the sink's; the one with the longest path. */
export function sinkFor(
  sinks: readonly Sink[],
  text: string,
): { readonly sink: Sink; readonly url: string } | undefined {
  const url = readSinkUrl(text);
  if (typeof url === 'string') return undefined;
  const found = sinks
    .filter((sink) => isBelow(new URL(sink.url), url))
    .sort((a, b) => new URL(b.url).pathname.length - new URL(a.url).pathname.length)[0];
  return found && { sink: found, url: url.href };
}

function isBelow(sink: URL, url: URL): boolean {
  if (sink.origin !== url.origin) return false;
  const folder = sink.pathname.endsWith('/') ? sink.pathname : `${sink.pathname}/`;
  return url.pathname === sink.pathname || url.pathname.startsWith(folder);
}
