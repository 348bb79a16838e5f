/**
 * The policy: the frozen, compiled form of all rule files. One value is read
 * by `decide` (requests), by `identify` (certificate-holders.ts) and by whoever writes
 * source classes into the gate (packets), so that the three cannot disagree.
 */
import type { Place } from '../core/document.ts';
import type { Address, Family, Prefix } from '../core/net.ts';
import type { RefusalReason } from '../core/refusals.ts';
import type { Sink } from '../core/sinks.ts';
import type {
  Attributes,
  ExternalId,
  MtcUserName,
  PacketLimits,
  PortRange,
  Protocol,
  RealmName,
  ServerName,
} from '../core/words.ts';
import type { Certificate, Holder } from './certificate-holders.ts';
import type { Condition } from './condition.ts';
import type { Filter, WalkedPacket } from './filters.ts';
import type { DeviceGroup, DeviceSelector } from './groups.ts';
import type { Hours } from './hours.ts';
import type { DevicePattern, NamePattern } from './patterns.ts';

export interface Server {
  readonly name: ServerName;
  readonly certificates: readonly Certificate[];
  /** Where its packets come from. */
  readonly sources: readonly Prefix[];
  /** Where its requests come from. */
  readonly apiSources: readonly Prefix[];
  /** It sees inner addresses: its grants are not translated. */
  readonly nat?: 'none';
  /** Where it is told by a push of what becomes of its grants. */
  readonly sinks?: readonly Sink[];
}

export interface MtcUser {
  readonly name: MtcUserName;
  readonly certificates: readonly Certificate[];
  /** Where its requests come from; absent: from anywhere. */
  readonly apiSources?: readonly Prefix[];
  readonly devices: readonly DevicePattern[];
  readonly authorises: readonly ServerName[];
  readonly mayAuthorise: readonly NamePattern[];
  /** Where it is told by a push of who was turned away from its devices. */
  readonly sinks?: readonly Sink[];
}

/** What a rule looks at; an absent member matches everything. */
export interface Match {
  readonly servers?: readonly ServerName[];
  readonly devices?: readonly DeviceSelector[];
  readonly protocols?: readonly Protocol[];
  readonly ports?: readonly PortRange[];
}

export interface Limits extends PacketLimits {
  /** The longest that one request, or one extension, is granted for. */
  readonly durationSeconds: number;
  /** The longest life of a grant, extensions included. */
  readonly totalSeconds: number;
  readonly grantsPerDevice?: number;
  readonly grantsPerServer?: number;
  readonly requestsPerMinute?: number;
}

interface Rule {
  readonly id: string;
  readonly place: Place;
  readonly match: Match;
  /** Absent: always. */
  readonly hours?: Hours;
  /** Absent: it counts whatever the request is. */
  readonly when?: Condition;
}

export interface AllowRule extends Rule {
  readonly action: 'allow';
  /** Whether a grant may be open to all of the server's sources. */
  readonly allApplicationServers: boolean;
  readonly limits: Limits;
}

export interface DenyRule extends Rule {
  readonly action: 'deny';
  readonly reason: string;
}

export interface TriggerLimits {
  /** The longest that one may wait for its device. */
  readonly validitySeconds: number;
  readonly payloadBytes: number;
  /** From this server. */
  readonly perMinute?: number;
  /** From this server to one device: each costs it battery. */
  readonly perDevicePerHour?: number;
  readonly pendingPerDevice?: number;
  readonly pendingPerServer?: number;
}

/** Operator policy on triggers; `match` names no protocols. */
export interface TriggerAllow extends Rule {
  readonly action: 'allow';
  readonly limits: TriggerLimits;
}

/** A request and what the policy must say to it; written by operators beside their rules. */
export interface PolicyTest {
  readonly name: string;
  readonly place: Place;
  /** Judged as if all that is staged were enforced. */
  readonly staged: boolean;
  readonly request: {
    readonly server: ServerName;
    readonly device: ExternalId;
    readonly protocol: Protocol;
    readonly port: number;
    readonly durationSeconds: number;
    readonly applicationServer?: Address | 'all';
    readonly ipFamily?: Family;
    /** Where the request comes from; absent: the first address of the server's sources in the family asked for. */
    readonly from?: Address;
  };
  /** Of the device. */
  readonly attributes: Attributes;
  /** When it is asked; absent: hours are taken to be within. */
  readonly nowMs?: number;
  readonly usage: Usage;
  readonly expect: { readonly allow: string; readonly durationSeconds?: number } | { readonly refuse: RefusalReason };
}

/** The same of a trigger. */
export interface TriggerTest extends Pick<PolicyTest, 'name' | 'place' | 'staged' | 'attributes' | 'nowMs'> {
  readonly trigger: {
    readonly server: ServerName;
    readonly device: ExternalId;
    readonly port: number;
    readonly validitySeconds: number;
    readonly payloadBytes: number;
  };
  readonly usage: TriggerUsage;
  readonly expect: { readonly allow: string } | { readonly refuse: RefusalReason };
}

/** A packet, and what the gateway must do with it, in the words of the walk: `drop bogons-in`, `pass grant`. */
export interface PacketTest {
  readonly name: string;
  readonly place: Place;
  readonly staged: boolean;
  readonly packet: WalkedPacket;
  readonly expect: string;
}

/** What a server holds and has asked for, when it asks again (without the present request). */
export interface Usage {
  /** Live grants that this server holds on this device. */
  readonly grantsOnDevice: number;
  /** Live grants that this server holds. */
  readonly grantsOfServer: number;
  /** Its requests of the last 60 s that were not refused for their rate. */
  readonly requestsInLastMinute: number;
}

/** No pressure: for live grants judged again after a policy switch. */
export const NO_USAGE: Usage = { grantsOnDevice: 0, grantsOfServer: 0, requestsInLastMinute: 0 };

/** What a server has pending, and has sent, when it asks for one more trigger. */
export interface TriggerUsage {
  readonly pendingOnDevice: number;
  readonly pendingOfServer: number;
  /** Its triggers of the last 60 s that were not refused for their rate. */
  readonly triggersInLastMinute: number;
  /** That were accepted for this device. */
  readonly triggersOnDeviceInLastHour: number;
}

/** No pressure: for triggers judged again when they are sent. */
export const NO_TRIGGER_USAGE: TriggerUsage = {
  pendingOnDevice: 0,
  pendingOfServer: 0,
  triggersInLastMinute: 0,
  triggersOnDeviceInLastHour: 0,
};

export interface Policy {
  /** Hash of everything that decides; the same for the same rules (and the same desk), however spread over files and ordered. */
  readonly version: string;
  readonly servers: ReadonlyMap<ServerName, Server>;
  readonly mtcUsers: ReadonlyMap<MtcUserName, MtcUser>;
  /** Whose certificates are known, by their URI or the hash of their key: asked with every request. */
  readonly holders: ReadonlyMap<string, readonly Holder[]>;
  /** For rules and filters. No server group bears the name of a device group. */
  readonly deviceGroups: ReadonlyMap<string, DeviceGroup>;
  /** The names that each stands for. */
  readonly serverGroups: ReadonlyMap<string, readonly ServerName[]>;
  /** By id. */
  readonly allows: readonly AllowRule[];
  readonly denies: readonly DenyRule[];
  readonly triggerAllows: readonly TriggerAllow[];
  readonly triggerDenies: readonly DenyRule[];
  readonly filters: readonly Filter[];
  /** Of agent.yaml: ports of devices that take triggers and nothing else. They decide, so they are in the version. */
  readonly triggerPorts: readonly PortRange[];
  /** Of agent.yaml, and in the version: realms with `nat: none`, and those that share addresses (translation.ts). */
  readonly untranslatedRealms: readonly RealmName[];
  readonly sharedRealms: readonly RealmName[];
  readonly tests: readonly PolicyTest[];
  readonly triggerTests: readonly TriggerTest[];
  readonly packetTests: readonly PacketTest[];
  /** Whether a rule looks at more of a device than its name: its grants are then judged again when devices are registered anew. */
  readonly readsAttributes: boolean;
  /** Only where something is staged: the same policy with all of it enforced. */
  readonly staged?: Policy;
  /** Only where MTC users have said something themselves (desk/laid-policy.ts). */
  readonly desk?: LaidDesk;
}

/** What an MTC user wants of its devices (preferences.ts); at least one of the three is there. */
export interface Preference {
  readonly id: string;
  /** Those of its MTC user that match. */
  readonly devices: DevicePattern;
  /** Nothing reaches them. */
  readonly block?: true;
  /** Nothing reaches them within these. */
  readonly quietHours?: Hours;
  /** So many grants begin in a day of this zone, of all servers together. */
  readonly grantsPerDay?: { readonly grants: number; readonly zone: string };
}

/** What MTC users have said, laid over a policy. Whom they authorise stands with them in `mtcUsers`. */
export interface LaidDesk {
  /** The policy of the rule files alone. */
  readonly over: Policy;
  readonly preferences: ReadonlyMap<MtcUserName, readonly Preference[]>;
  /** What the policy's version is for the grants of each MTC user that has said something. */
  readonly versions: ReadonlyMap<MtcUserName, string>;
}

/**
 * The version of what decides on the devices of one MTC user: it stays where
 * others change what they want, so that its grants need not be judged anew.
 */
export function versionFor({ version, desk }: Policy, mtcUser: MtcUserName): string {
  return desk ? (desk.versions.get(mtcUser) ?? desk.over.version) : version;
}

/** Which prefix stands for which server: what the gate's classes are made from. By prefix, each once. */
export function sourceClasses(policy: Policy): readonly { readonly prefix: Prefix; readonly server: ServerName }[] {
  return [...policy.servers.values()]
    .flatMap((server) => server.sources.map((prefix) => ({ prefix, server: server.name })))
    .sort((a, b) => (a.prefix.text < b.prefix.text ? -1 : 1));
}
