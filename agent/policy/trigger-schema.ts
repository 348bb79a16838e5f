/**
 * Rules on triggers, as they stand in rule files beside those on grants, and
 * tests of them. A trigger is UDP, so these name no protocols.
 */
import type { z } from 'zod';
import * as f from '../core/fields.ts';
import { TRIGGER_PAYLOAD_MOST } from '../core/words.ts';
import { COUNT, LONGEST_SECONDS, match, ruleOf, serverName, USED } from './rule-members.ts';

const { servers, devices, ports } = match;
const validitySeconds = f.integer(0, LONGEST_SECONDS);
const payloadBytes = f.integer(0, TRIGGER_PAYLOAD_MOST);

const limits = f.mapping({
  validitySeconds,
  payloadBytes: payloadBytes.exactOptional(),
  perMinute: COUNT.exactOptional(),
  perDevicePerHour: COUNT.exactOptional(),
  pendingPerDevice: COUNT.exactOptional(),
  pendingPerServer: COUNT.exactOptional(),
});

export const triggerRule = ruleOf(
  f.mapping({ servers, devices, ports }),
  f.mapping({ servers, devices, ports, reason: f.text }),
  limits,
  'an allow of triggers says at least validitySeconds',
);

export type WrittenTriggerRule = z.output<typeof triggerRule>;

/** What a test asks for. */
export const triggerTest = f.mapping({
  server: serverName,
  device: f.externalId,
  port: f.port,
  validitySeconds: validitySeconds.default(60),
  payloadBytes: payloadBytes.default(0),
});

/** What is pending, and was sent, when a test asks. */
export const triggerUsage = {
  pendingOnDevice: USED.exactOptional(),
  pendingOfServer: USED.exactOptional(),
  triggersInLastMinute: USED.exactOptional(),
  triggersOnDeviceInLastHour: USED.exactOptional(),
};
