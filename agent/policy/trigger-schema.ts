/**
 * Rules on triggers, as they stand in rule files beside those on grants, and
 * tests of them. A trigger is UDP, so these name no protocols.
 */
import type { z } from 'zod';
import * as f from '../core/fields.ts';
import { TRIGGER_PAYLOAD_MOST } from '../core/words.ts';
import { COUNT, hours, LONGEST_SECONDS, match, serverName, USED, when } from './rule-members.ts';

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

export const triggerRule = f
  .mapping({
    id: f.name(),
    allow: f.mapping({ servers, devices, ports }).exactOptional(),
    deny: f.mapping({ servers, devices, ports, reason: f.text }).exactOptional(),
    limits: limits.exactOptional(),
    hours: hours.exactOptional(),
    when: when.exactOptional(),
    stage: f.flag.exactOptional(),
  })
  .refine(...f.exactlyOne('allow', 'deny'))
  .refine((written) => 'deny' in written || 'limits' in written, {
    error: '"limits" is missing: an allow of triggers says at least validitySeconds',
    when: f.isMapping,
  })
  .refine((written) => !('deny' in written && 'limits' in written), {
    error: 'expected no limits with deny',
    path: ['limits'],
    when: f.isMapping,
  })
  .meta({ oneOf: [{ required: ['allow', 'limits'] }, { required: ['deny'] }] });

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
