/**
 * What rules on grants and rules on triggers have in common, key by key: whom
 * and what they match, their hours, their condition.
 */
import type { z } from 'zod';
import * as f from '../core/fields.ts';
import type { ServerName } from '../core/words.ts';
import { LONGEST_CONDITION } from './condition.ts';
import { ALL_DAY, DAYS, parseTimeOfDay, parseZone } from './hours.ts';
import { parseDevicePattern } from './patterns.ts';

/** A month: long enough for every sensible grant, short enough that a slip of the finger ends. */
export const LONGEST_SECONDS = 30 * 86_400;
export const COUNT = f.integer(1, 1_000_000);
export const USED = f.integer(0, 1_000_000);

export const serverName = f.name<ServerName>();
const TIME = '^([01][0-9]|2[0-3]):[0-5][0-9]$';
const GROUP = 'group:';
/** A group is named where a server or a pattern may stand. */
function orGroup<Value>(expected: string, read: (text: string) => Value | undefined) {
  return f.field(`${expected}, or ${GROUP}NAME`, (text): Value | GroupName | undefined => {
    if (!text.startsWith(GROUP) || text.includes('@')) return read(text);
    const group = f.name().safeParse(text.slice(GROUP.length)).data;
    return group === undefined ? undefined : { group };
  });
}
const serverOrGroup = orGroup('the name of a server', (text) => serverName.safeParse(text).data);
const deviceOrGroup = orGroup('a device pattern such as *@*.meters.example', parseDevicePattern);

export const match = {
  servers: f.list(serverOrGroup, 'servers').exactOptional(),
  devices: f.list(deviceOrGroup, 'device patterns').exactOptional(),
  protocols: f.list(f.protocol, 'tcp, udp').exactOptional(),
  ports: f.list(f.ports, 'ports').exactOptional(),
};

const timeOfDay = f.field('a time of the day such as 06:00', parseTimeOfDay, { pattern: TIME });
const endOfDay = f.field(
  'a time of the day such as 22:00, or 24:00',
  (text) => (text === '24:00' ? ALL_DAY : parseTimeOfDay(text)),
  {
    pattern: `${TIME}|^24:00$`,
  },
);
const zone = f.field('a time zone such as Europe/Berlin', parseZone, {}, (text) =>
  f.unknownWord('time zone', text, Intl.supportedValuesOf('timeZone')),
);
const hours = f
  .mapping({
    from: timeOfDay,
    to: endOfDay,
    zone,
    days: f.list(f.choice(...DAYS), DAYS.join(', ')).exactOptional(),
  })
  .refine(({ from, to }) => from !== to, {
    error: 'expected another time than from; a whole day is from 00:00 to 24:00',
    path: ['to'],
  });

const when = f.field(
  `a condition in CEL, of at most ${LONGEST_CONDITION} characters`,
  (text) => (text.trim() === '' || text.length > LONGEST_CONDITION ? undefined : { text: text.trimEnd() }),
  { minLength: 1, maxLength: LONGEST_CONDITION },
);

/** A rule: what it allows, within which limits, or what it denies; when, and whether it is only tried. `least`: what an allow says. */
export function ruleOf<Allow extends z.ZodType, Deny extends z.ZodType, Limits extends z.ZodType>(
  allow: Allow,
  deny: Deny,
  limits: Limits,
  least: string,
) {
  return f
    .mapping({
      id: f.name(),
      allow: allow.exactOptional(),
      deny: deny.exactOptional(),
      limits: limits.exactOptional(),
      hours: hours.exactOptional(),
      when: when.exactOptional(),
      stage: f.flag.exactOptional(),
    })
    .refine(...f.exactlyOne('allow', 'deny'))
    .refine((written) => 'deny' in written || 'limits' in written, {
      error: `"limits" is missing: ${least}`,
      when: f.isMapping,
    })
    .refine((written) => !('deny' in written && 'limits' in written), {
      error: 'expected no limits with deny',
      path: ['limits'],
      when: f.isMapping,
    })
    .meta({ oneOf: [{ required: ['allow', 'limits'] }, { required: ['deny'] }] });
}

/** A group as it is named in a rule. */
export interface GroupName {
  readonly group: string;
}
