/**
 * The account of denied packets (design, law 8): seen = inspected + unsampled
 * + lost, since this start of the agent.
 *
 * seen: the gate's count of denials. unsampled: those it did not hand on.
 * lost: handed on and not received; a packet on its way counts as lost until
 * it arrives. The gate counts a denial before it counts the sample, and the
 * sample before the packet can be received; so reading in the other order the
 * sum holds at any moment, and no number is below zero. The gate's counters
 * outlive the agent, so what they showed at the start is taken off.
 */
interface GateSeen {
  readonly sampled: { readonly packets: bigint };
  readonly denied: Readonly<Record<string, { readonly packets: bigint }>>;
}

export interface Account {
  readonly seen: number;
  readonly inspected: number;
  readonly unsampled: number;
  readonly lost: number;
}

/** Begins an account, before anything can be received; the function returned reads it. */
export function openAccount(gate: () => GateSeen, received: () => number): () => Account {
  // In the gate's own order: no sample is taken off whose denial is not.
  const deniedBefore = deniedPackets(gate());
  const sampledBefore = gate().sampled.packets;
  return () => {
    const arrived = received();
    const sampled = Number(gate().sampled.packets - sampledBefore);
    const seen = Number(deniedPackets(gate()) - deniedBefore);
    // More than was handed on can arrive only where somebody else logs in our words.
    const inspected = Math.min(arrived, sampled);
    return { seen, inspected, unsampled: seen - sampled, lost: sampled - inspected };
  };
}

/** All packets that the gate denied, whatever the reason. */
export function deniedPackets({ denied }: Pick<GateSeen, 'denied'>): bigint {
  return Object.values(denied).reduce((sum, { packets }) => sum + packets, 0n);
}
