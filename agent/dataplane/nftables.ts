/**
 * The base in the kernel: table `inet mtgate`, put there whole by `nft` in
 * one transaction, and looked at again to see that it still stands. The text
 * comes from policy/ruleset.ts.
 *
 * Whoever changes anything in nftables raises its generation: as long as that
 * is the one at which the table was seen to stand, nft need not be run. One
 * change comes without: up to Linux 6.15 the kernel takes the hook of an
 * interface that goes out of a chain. So the chains are compared, too.
 * linux/netfilter/nfnetlink.h, nf_tables.h.
 */
import { AgentError } from '../core/errors.ts';
import { run } from './command.ts';
import { ask } from './netlink.ts';
import { attributeIn, type Question, textIn } from './netlink-message.ts';

const TABLE = ['inet', 'mtgate'] as const;

/** NFNL_SUBSYS_NFTABLES, in the upper byte of a message's type. */
const NFTABLES = 10 << 8;
const NFT_MSG_GETCHAIN = 4;
const NFT_MSG_GETGEN = 16;
/** struct nfgenmsg: family, version, resource. */
const NFGEN_HEADER = 4;
const NFPROTO_INET = 1;
const NFTA_GEN_ID = 1;
const NFTA_CHAIN_TABLE = 1;

const GENERATION: Question = {
  what: 'the generation of nftables',
  type: NFTABLES | NFT_MSG_GETGEN,
  dump: false,
  body: new Uint8Array(NFGEN_HEADER),
};
const CHAINS: Question = {
  what: 'the chains of nftables',
  type: NFTABLES | NFT_MSG_GETCHAIN,
  dump: true,
  body: Uint8Array.of(NFPROTO_INET, 0, 0, 0),
};

export class Base {
  /** What nft shows of the table right after it was applied. */
  #applied: string | undefined;
  /** The edition of nftables at which the table was last seen to stand as applied. */
  #stood: string | undefined;

  /** Replaces the table by this one; there is no moment without one. @throws AgentError nftFailed */
  async apply(text: string): Promise<void> {
    const [family, name] = TABLE;
    // Declared first, so that deleting it never fails; nft carries the three out as one.
    const outcome = await nft(['-f', '-'], `table ${family} ${name}\ndelete table ${family} ${name}\n${text}`);
    if (outcome.status !== 0) throw new AgentError('nftFailed', `the base was not applied: ${outcome.complaint}`);
    this.#stood = undefined;
    this.#applied = await shown();
  }

  /** Whether the table stands as it was applied, or a chain, rule or element is gone or added. */
  async look(): Promise<'stands' | 'baseMissing' | 'baseChanged'> {
    const current = await edition(); // before the list: what changes in between is listed once more
    if (current === this.#stood) return 'stands';
    const now = await shown();
    if (now === undefined) return 'baseMissing';
    if (now !== this.#applied) return 'baseChanged';
    this.#stood = current;
    return 'stands';
  }
}

/** Another one after every change that nft would show of the table. */
async function edition(): Promise<string> {
  const [[generation], chains] = await Promise.all([ask('netfilter', GENERATION), ask('netfilter', CHAINS)]);
  const id = generation && attributeIn(generation.body, NFGEN_HEADER, NFTA_GEN_ID);
  if (!id) throw new AgentError('netlinkFailed', 'nftables does not tell its generation');
  const ours = chains.flatMap(({ body }) => {
    const table = attributeIn(body, NFGEN_HEADER, NFTA_CHAIN_TABLE);
    return table && textIn(table) === TABLE[1] ? body.subarray(NFGEN_HEADER) : [];
  });
  return Buffer.concat([id, ...ours]).toString('latin1');
}

/** The table's text without counters, or undefined where there is none. */
async function shown(): Promise<string | undefined> {
  const outcome = await nft(['--stateless', 'list', 'table', ...TABLE]);
  return outcome.status === 0 ? outcome.output : undefined;
}

async function nft(args: readonly string[], input?: string) {
  try {
    return await run('nft', args, input);
  } catch (cause) {
    throw new AgentError('libraryMissing', 'nft cannot be run', { cause });
  }
}
