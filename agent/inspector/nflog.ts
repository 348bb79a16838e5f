/**
 * The child that reads the denied packets: libpcap's `nflog:GROUP` through
 * `cap`, in a process of its own, since `cap` aborts its process when the
 * socket overruns and holds the event loop until the socket is empty.
 *
 * It decides nothing: it reads the reason off the prefix and hands the packet
 * to the agent. What is on its way to the agent is bounded; beyond that it is
 * dropped here, and shows as lost in the agent's account. It ends with the
 * agent, however that ends: the kernel closes the channel between them.
 */
import cap from 'cap';
import { readPrefix } from '../core/reasons.ts';
import { endWithTheAgent } from '../processes/child.ts';
import type { ChildMessage, CopiedPacket } from './child-message.ts';
import { readNflog } from './nflog-message.ts';

/** Of the kernel; it may give less (net.core.rmem_max). */
const SOCKET_BYTES = 4 << 20;
/** The longest message of libpcap's link type: more than any with 96 bytes of payload. */
const MESSAGE_BYTES = 65_536;
const PACKETS_A_BATCH = 500;
const BATCHES_ON_THEIR_WAY = 64;

let batch: CopiedPacket[] = [];
let notOurs = 0;
let damaged = 0;
let onTheirWay = 0;
let scheduled = false;

function send(message: ChildMessage): void {
  onTheirWay += 1;
  process.send?.(message, undefined, {}, () => {
    onTheirWay -= 1;
  });
}

function flush(): void {
  if (onTheirWay < BATCHES_ON_THEIR_WAY) send({ packets: batch, notOurs, damaged });
  batch = [];
  notOurs = 0;
  damaged = 0;
}

/** Keeps what one message holds; `cap` overwrites its bytes with the next. */
function take(bytes: Uint8Array): void {
  const message = readNflog(bytes);
  if (message === 'damaged') damaged += 1;
  else {
    const said = readPrefix(message.prefix);
    if (!said) notOurs += 1;
    else batch.push({ ...said, bytes: Uint8Array.from(message.payload) });
  }
  if (batch.length >= PACKETS_A_BATCH) flush(); // the loop turns only once the socket is empty
  if (scheduled) return;
  scheduled = true;
  setImmediate(() => {
    scheduled = false;
    flush();
  });
}

endWithTheAgent(() => process.exit(0));

const frame = Buffer.alloc(MESSAGE_BYTES);
const handle = new cap.Cap();
handle.on('packet', (length) => take(frame.subarray(0, length)));
handle.open(`nflog:${Number(process.argv[2])}`, '', SOCKET_BYTES, frame);
send('ready');
