/**
 * What `mtgate status` is told of the running agent, as the management socket
 * answers it. Values are read where they are kept, when somebody asks.
 */
import type { CertificateStatus } from './api/expiry.ts';
import type { Attachment } from './dataplane/attachment.ts';
import type { GateCounters, PacketCount } from './dataplane/dataplane.ts';
import type { InspectorReading } from './inspector/inspector.ts';
import type { LastFault } from './last-fault.ts';

/** The part that only main knows. */
export interface RunningStatus {
  /** Whether gate and base are in place; what is missing, if not. */
  readonly closed: boolean;
  readonly gap?: string;
  /** The operator wants no new grants. */
  readonly draining: boolean;
  readonly interfaces: {
    readonly outside: string;
    readonly inside: readonly { readonly realm: string; readonly interface: string }[];
  };
  /** In words: interfaces that are not there, kernel settings that are not as they must be. */
  readonly missingInterfaces: readonly string[];
  readonly wrongSysctls: readonly string[];
  /** Place, interface and kind, such as `outsideIngress eth0 tcx`. */
  readonly attachments: readonly string[];
  readonly heartbeatAgeSeconds: number;
  /** So long a heartbeat may be missing before the gate refuses every grant. */
  readonly orphanGraceSeconds: number;
  readonly packets: ReturnType<typeof packetsOf>;
  readonly deniedInLastMinute: number;
  readonly inspector: InspectorReading;
  readonly certificates: readonly CertificateStatus[];
  readonly lastFault?: LastFault;
}

export interface Status extends RunningStatus {
  readonly gateway: string;
  readonly policy: string;
  readonly liveGrants: number;
  readonly restingEndpoints: number;
  readonly freeEndpoints: { readonly ipv4Tcp: number; readonly ipv4Udp: number; readonly ipv6: number };
  readonly bindings: number;
}

/** An attachment in a word: `outsideIngress outside tcx`. */
export const attachmentText = ({ hook, interface: link, kind }: Attachment) => `${hook} ${link.name} ${kind}`;

/** Counts as a person wants them: packets only, and of denials only those that happened. */
export function packetsOf({ denied, grantedIn, grantedOut, passed, sampled }: GateCounters) {
  const number = ({ packets }: PacketCount) => Number(packets);
  const happened = Object.entries(denied).flatMap(([reason, count]) =>
    count.packets > 0n ? [[reason, number(count)] as const] : [],
  );
  return {
    grantedIn: number(grantedIn),
    grantedOut: number(grantedOut),
    passed: number(passed),
    sampled: number(sampled),
    denied: Object.fromEntries(happened) as Readonly<Record<string, number>>,
  };
}

/** All packets that the gate denied, whatever the reason. */
export function deniedPackets({ denied }: GateCounters): number {
  return Object.values(denied).reduce((sum, { packets }) => sum + Number(packets), 0);
}
