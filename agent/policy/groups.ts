/**
 * Groups of the rule files: servers and devices that a rule names together,
 * as `group:NAME`. A group of servers is its names as soon as it is compiled.
 * A group of devices stays what it says, since devices come and go: one is in
 * it when a pattern matches and each attribute has one of the values. What a
 * group does not say holds of every device.
 */
import type { Attributes, ExternalId } from '../core/words.ts';
import { type DevicePattern, matchesDevice } from './patterns.ts';

export interface DeviceGroup {
  readonly group: string;
  readonly devices?: readonly DevicePattern[];
  readonly attributes?: Readonly<Record<string, readonly string[]>>;
}

/** What a rule says of devices: a pattern, or a group. */
export type DeviceSelector = DevicePattern | DeviceGroup;

/** What a device is judged by. */
export interface DeviceFacts {
  readonly externalId: ExternalId;
  readonly attributes: Attributes;
}

export function isInGroup({ devices, attributes = {} }: DeviceGroup, device: DeviceFacts): boolean {
  if (devices && !devices.some((pattern) => matchesDevice(pattern, device.externalId))) return false;
  return Object.entries(attributes).every(
    ([name, values]) => Object.hasOwn(device.attributes, name) && values.includes(device.attributes[name] as string),
  );
}

export function isSelected(selector: DeviceSelector, device: DeviceFacts): boolean {
  return 'group' in selector ? isInGroup(selector, device) : matchesDevice(selector, device.externalId);
}

/** As it is written. */
export function selectorText(selector: DeviceSelector): string {
  return 'group' in selector ? `group:${selector.group}` : selector.text;
}

/** The patterns of which a selected device matches one; undefined where it may have any name. */
export function patternsOf(selector: DeviceSelector): readonly DevicePattern[] | undefined {
  return 'group' in selector ? selector.devices : [selector];
}
