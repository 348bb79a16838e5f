/** The part of `cap` 0.2.1 that we use; it brings no types. See native-notes/cap.md. */
declare module 'cap' {
  import type { EventEmitter } from 'node:events';

  /** A CommonJS module: what it exports is on the default. */
  const cap: { readonly Cap: new () => Cap };
  export default cap;

  export interface Cap extends EventEmitter<{ packet: [length: number, truncated: boolean] }> {
    /** Opens, and delivers into `frame`, which is overwritten by the next packet. Returns the link type. */
    open(device: string, filter: string, bufferBytes: number, frame: Buffer): string;
    send(frame: Buffer, length?: number): void;
    close(): void;
  }
}
