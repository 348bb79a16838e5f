/**
 * How a preference is written down, in the MTC user's API, on the management
 * socket and in desk.db alike: `quietHours` as in a rule (`from`, `to`, `zone`,
 * `days`), `devices` as a pattern.
 */
import { ALL_DAY, DAYS, type Day, type Hours, parseTimeOfDay, parseZone, timeText } from '../policy/hours.ts';
import { parseDevicePattern } from '../policy/patterns.ts';
import type { Preference } from '../policy/policy.ts';

export interface WrittenPreference {
  readonly devices: string;
  readonly block?: boolean;
  readonly quietHours?: {
    readonly from: string;
    readonly to: string;
    readonly zone: string;
    readonly days?: readonly string[];
  };
  readonly grantsPerDay?: { readonly grants: number; readonly zone: string };
}

/** A preference without its id; or what is wrong, with its place. */
export function readPreference(written: WrittenPreference): Omit<Preference, 'id'> | { readonly wrong: string } {
  const { block, quietHours: hours, grantsPerDay: daily } = written;
  const devices = parseDevicePattern(written.devices);
  if (!devices) return { wrong: 'devices is neither an external identifier nor a pattern such as *@meters.example' };
  const quietHours = hours && readHours(hours);
  if (quietHours && 'wrong' in quietHours) return quietHours;
  const zone = daily && parseZone(daily.zone);
  if (daily && zone === undefined) return { wrong: 'grantsPerDay.zone is no time zone such as Europe/Berlin' };
  if (!block && !quietHours && !daily)
    return { wrong: 'it says nothing: block (true), quietHours or grantsPerDay must be there' };
  return {
    devices,
    ...(block && { block }),
    ...(quietHours && { quietHours }),
    ...(daily && zone !== undefined && { grantsPerDay: { grants: daily.grants, zone } }),
  };
}

export function writtenPreference({ devices, block, quietHours, grantsPerDay }: Preference): WrittenPreference {
  return {
    devices: devices.text,
    ...(block && { block }),
    ...(quietHours && {
      quietHours: {
        from: timeText(quietHours.from),
        to: timeText(quietHours.to),
        zone: quietHours.zone,
        days: quietHours.days,
      },
    }),
    ...(grantsPerDay && { grantsPerDay }),
  };
}

function readHours({
  from,
  to,
  zone,
  days = DAYS,
}: NonNullable<WrittenPreference['quietHours']>): Hours | { readonly wrong: string } {
  const [opens, closes] = [parseTimeOfDay(from), to === '24:00' ? ALL_DAY : parseTimeOfDay(to)];
  if (opens === undefined) return { wrong: 'quietHours.from is no time of the day such as 22:00' };
  if (closes === undefined) return { wrong: 'quietHours.to is no time of the day such as 06:00, or 24:00' };
  if (opens === closes)
    return { wrong: 'quietHours.from and quietHours.to are the same: use 00:00 and 24:00, or block' };
  const known = parseZone(zone);
  if (known === undefined) return { wrong: 'quietHours.zone is no time zone such as Europe/Berlin' };
  const unknown = days.find((day) => !DAYS.includes(day as Day));
  if (unknown !== undefined || days.length === 0) return { wrong: `quietHours.days is a list of ${DAYS.join(', ')}` };
  return { from: opens, to: closes, zone: known, days: DAYS.filter((day) => days.includes(day)) };
}
