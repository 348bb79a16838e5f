/**
 * Rule files -> Policy: read, held against each other and against the
 * gateway, and frozen; or every issue. Nothing is compiled by halves: a
 * policy with an issue is no policy, and the one in force stays.
 */

import { ADMISSIONS_MAX } from '../core/admissions.ts';
import { byPlace, frozen, type Issue } from '../core/document.ts';
import type { Owned } from '../core/overlaps.ts';
import type { ServerName } from '../core/words.ts';
import { uncontained } from './admissions.ts';
import { holdersOf } from './certificate-holders.ts';
import { findIssues, type Pushes, realmlessIssues } from './checks.ts';
import {
  allowOf,
  byName,
  denyOf,
  groupsOf,
  mtcUserOf,
  packetTestOf,
  serverOf,
  testOf,
  triggerAllowOf,
  triggerTestOf,
} from './entries.ts';
import { type FilterGroups, filterOf } from './filter-files.ts';
import type { Filter } from './filters.ts';
import type { DeviceFacts } from './groups.ts';
import type { WalkSite } from './packet-walk.ts';
import type { AllowRule, DenyRule, Policy } from './policy.ts';
import { versionOf } from './policy-version.ts';
import type { WrittenRule } from './rule-schema.ts';
import { type Entry, type RuleFile, readRules } from './rules.ts';
import type { WrittenTriggerRule } from './trigger-schema.ts';
import { findWarnings } from './warnings.ts';

/** What the rules are held against; absent where it is not known, as in a check without agent.yaml. */
export interface Surroundings {
  /** Names of the trusted client CAs. */
  readonly authorities?: readonly string[];
  /** What pushes to sinks rest on: the names of their CAs, and whether there is a key to sign with. */
  readonly pushes?: Pushes;
  /** The gateway's own address spaces. */
  readonly ownSpaces?: readonly Owned[];
  /** What packets meet there. */
  readonly site?: WalkSite;
  /** What the devices file says; only to warn of what stands for none of them. */
  readonly devices?: readonly DeviceFacts[];
  /** SHA-256 of a text, in hex. */
  readonly digest: (text: string) => string;
}

export type Compilation =
  | { readonly policy: Policy; readonly warnings: readonly Issue[] }
  | { readonly issues: readonly Issue[] };

export function compilePolicy(files: readonly RuleFile[], surroundings: Surroundings): Compilation {
  const reading = readRules(files);
  const { written } = reading;
  const groups = groupsOf(written);
  const filterGroups: FilterGroups = {
    devices: new Set(groups.deviceGroups.keys()),
    servers: new Map(
      [...groups.serverGroups].map(([group, names]) => [
        group,
        written.servers.flatMap(({ name, value }) => (names.includes(name as ServerName) ? value.sources : [])),
      ]),
    ),
  };
  const realms = surroundings.site?.inside ?? [];
  const { authorities, ownSpaces = [] } = surroundings;
  const issues = [
    ...findIssues(reading, authorities, ownSpaces, filterGroups, surroundings.pushes),
    ...realmlessIssues(written, realms),
  ];
  if (issues.length > 0) return { issues: issues.sort(byPlace) };

  const servers = byName(written.servers.map(serverOf));
  const mtcUsers = byName(written.mtcUsers.map(mtcUserOf));
  const parties = {
    servers: new Map(servers.map((server) => [server.name, frozen(server)])),
    mtcUsers: new Map(mtcUsers.map((user) => [user.name, frozen(user)])),
  };
  const rest = {
    ...parties,
    ...groups,
    holders: holdersOf(servers, mtcUsers),
    tests: written.tests.map(testOf),
    triggerTests: written.triggerTests.map(triggerTestOf),
    packetTests: written.packetTests.map(packetTestOf),
  };
  const triggerPorts = surroundings.site?.triggerPorts ?? [];
  const untranslatedRealms = realms.flatMap(({ realm, nat }) => (nat === 'none' ? realm : []));
  const sharedRealms = realms.flatMap(({ realm, shared }) => (shared ? realm : []));
  const someSeeInside = servers.some(({ nat }) => nat === 'none');
  const withRules = (
    rules: readonly Entry<WrittenRule>[],
    triggers: readonly Entry<WrittenTriggerRule>[],
    filters: readonly Filter[],
    staged?: Policy,
  ): Policy => {
    const allows = rules.flatMap((rule) => allowOf(rule, groups));
    const denies = rules.flatMap((rule) => denyOf(rule, groups));
    const triggerAllows = triggers.flatMap((rule) => triggerAllowOf(rule, groups));
    const triggerDenies = triggers.flatMap((rule) => denyOf(rule, groups));
    const ruled = { allows, denies, triggerAllows, triggerDenies, filters };
    const said = {
      ...{ servers, mtcUsers, ...groups, ...ruled },
      // What says nothing is left out: as if there were no agent.yaml.
      ...(triggerPorts.length > 0 && { triggerPorts }),
      ...(untranslatedRealms.length > 0 && { untranslatedRealms }),
      ...(someSeeInside && sharedRealms.length > 0 && { sharedRealms }),
      ...(staged && { staged: staged.version }),
    };
    return frozen({
      version: versionOf(said, surroundings.digest),
      ...rest,
      ...ruled,
      triggerPorts,
      untranslatedRealms,
      sharedRealms,
      readsAttributes: [...allows, ...denies].some(readsAttributes) || filters.some(namesGroup),
      ...(staged && { staged }),
    });
  };
  const rules = byName(written.rules);
  const triggers = byName(written.triggers);
  const [enforced, enforcedTriggers] = [rules.filter(isEnforced), triggers.filter(isEnforced)];
  const filters = byName(written.filters).map((filter) => filterOf(filter, filterGroups));
  const crowd = uncontained(filters, surroundings.site?.realms ?? []);
  if (crowd) {
    const { filter, source } = crowd;
    const cure = 'join ranges of ports, or prefixes of `to`';
    const message = `allow "${filter.id}" opens more from ${source.text}, together with others, than the gate has room for (${ADMISSIONS_MAX}); ${cure}`;
    return { issues: [{ ...filter.place, message }] };
  }
  const isStaged =
    enforced.length < rules.length || enforcedTriggers.length < triggers.length || filters.some(({ staged }) => staged);
  const allEnforced = () =>
    withRules(
      rules,
      triggers,
      filters.map((filter) => ({ ...filter, staged: false })),
    );
  const policy = withRules(enforced, enforcedTriggers, filters, isStaged ? allEnforced() : undefined);
  const { devices, pushes, site } = surroundings;
  const around = { devices, pushes, triggerPorts: site?.triggerPorts };
  return { policy, warnings: findWarnings(policy, written, around).sort(byPlace) };
}

function isEnforced({ value }: Entry<{ readonly stage?: boolean }>): boolean {
  return !value.stage;
}

/** Groups with attributes, and conditions. */
function readsAttributes({ when, match }: AllowRule | DenyRule): boolean {
  if (when) return true;
  return match.devices?.some((selector) => 'group' in selector && selector.attributes !== undefined) ?? false;
}

function namesGroup({ from, to }: Filter): boolean {
  return [from, to].some((ends) => ends && ends.groups.length > 0);
}
