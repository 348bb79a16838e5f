/**
 * An event as it is sent: CloudEvents 1.0 in the structured JSON form
 * (cloudevents/spec, json-format.md; http-protocol-binding.md 3.2).
 *
 * Written here: it is one object. The package that knows the specification
 * judges it in the tests.
 */
import type { QueuedEvent } from './outbox.ts';

export interface Envelope {
  readonly contentType: string;
  readonly body: string;
}

const CLOUD_EVENT = 'application/cloudevents+json';

/**
 * `sequence` (the extension of that name) grows by one with each event of a
 * sink: what is missing between two is missing. `givenup` says how many of
 * those were given up, in all events since the last that was delivered.
 */
export function envelopeOf(event: QueuedEvent, gateway: string, givenUp: number): Envelope {
  const { id, type, subject, madeMs, number, data } = event;
  if (type === undefined) return { contentType: 'application/json', body: data };
  const attributes = {
    specversion: '1.0',
    id,
    source: `urn:mtgate:gateway:${gateway}`,
    type,
    ...(subject !== undefined && { subject }),
    time: new Date(madeMs).toISOString(),
    datacontenttype: 'application/json',
    sequence: String(number).padStart(16, '0'),
    ...(givenUp > 0 && { givenup: givenUp }),
  };
  return { contentType: CLOUD_EVENT, body: `${JSON.stringify(attributes).slice(0, -1)},"data":${data}}` };
}
