/** Fetches one file: goes on where a connection or a process ended, and believes no byte before the hash of all agrees. */
import { createHash, type Hash } from 'node:crypto'
import { constants, createReadStream } from 'node:fs'
import { type FileHandle, open, rename, rm } from 'node:fs/promises'
import { dirname } from 'node:path'
import { LorafuseError } from '../../errors.js'
import { syncFolder, writeError } from '../../files/atomic.js'
import { type HubFile, sizeOf } from './cache.js'
import { type HubClient, interruption, orAborted, Patience, Transient } from './client.js'

/** How often in a row a connection may bring nothing. */
const MOST_FAILURES = 6

/** Where a file grows. Python's tools may write `….incomplete` without looking at our locks, and count this name among what they clean up. */
function partialOf(blob: string): string {
  return `${blob}.lorafuse.incomplete`
}

/** How many bytes of a file an earlier run has left. */
export async function fetchedBytes(blob: string, { size }: HubFile): Promise<number> {
  const found = (await sizeOf(partialOf(blob))) ?? 0
  return found > size ? 0 : found
}

/** The hash whose hex digits are the etag: sha256, or git's sha1 of a blob. */
function hashOf({ etag, size }: HubFile): Hash {
  return etag.length === 64 ? createHash('sha256') : createHash('sha1').update(`blob ${size}\0`)
}

/**
 * Says what is at a path instead of a file, undefined where it is the file: another size or, `withHashes`, another content. Throws the signal's
 * reason.
 */
export async function damageOf(path: string, file: HubFile, withHashes: boolean, signal?: AbortSignal): Promise<string | undefined> {
  const size = await sizeOf(path)
  if (size !== file.size) return `${size ?? 'no'} bytes instead of ${file.size}`
  if (!withHashes) return undefined
  const hash = hashOf(file)
  try {
    for await (const chunk of createReadStream(path, { highWaterMark: 2 ** 20 })) {
      signal?.throwIfAborted()
      hash.update(chunk as Uint8Array)
    }
  } catch (cause) {
    signal?.throwIfAborted()
    return `what cannot be read (${(cause as NodeJS.ErrnoException).code})`
  }
  return hash.digest('hex') === file.etag ? undefined : 'another content'
}

interface Context {
  client: HubClient
  signal: AbortSignal | undefined
  stallMs: number
  /** Called with how many bytes have come; fewer than none if some are of no use. */
  onBytes(count: number): void
}

class Download {
  private position = 0
  private hash: Hash

  constructor(
    private readonly file: HubFile,
    private readonly address: string,
    private readonly path: string,
    private readonly partial: FileHandle,
    private readonly context: Context,
  ) {
    this.hash = hashOf(file)
  }

  private damaged(received: string): LorafuseError {
    const { path, size, etag } = this.file
    const expected = `Expected ${size} bytes with the hash ${etag.slice(0, 12)}… for ${path}`
    return new LorafuseError(
      'HUB_DAMAGED',
      `${expected} but received ${received}; run the command again, and set HF_ENDPOINT aside if it is set`,
    )
  }

  private async restart(): Promise<void> {
    await this.partial.truncate(0)
    this.context.onBytes(-this.position)
    this.position = 0
    this.hash = hashOf(this.file)
  }

  /** Hashes what an earlier run has left. */
  private async readOn(): Promise<void> {
    const { size } = await this.partial.stat()
    if (size > this.file.size) return this.restart()
    for await (const chunk of this.partial.createReadStream({ start: 0, highWaterMark: 2 ** 20, autoClose: false })) {
      this.context.signal?.throwIfAborted()
      this.hash.update(chunk as Uint8Array)
      this.position += (chunk as Uint8Array).length
    }
  }

  /** Checks that an answer is what was asked for: this file, from here on. */
  private async accept({ status, headers }: Response, etag: string | undefined): Promise<void> {
    if (etag !== undefined && etag !== this.file.etag) throw this.damaged(`another file, with the hash ${etag.slice(0, 12)}…`)
    const [, start, total] = /^bytes (\d+)-\d+\/(\d+|\*)$/.exec(headers.get('content-range') ?? '') ?? []
    const length = status === 206 ? total : headers.get('content-length')
    const isOther = length !== undefined && length !== null && length !== '*' && Number(length) !== this.file.size
    if (isOther) throw this.damaged(`${length} bytes`)
    if (status === 206 && Number(start) !== this.position) throw new Transient('another range than the one asked for', true)
    // A server that knows no ranges begins anew.
    if (status !== 206 && this.position > 0) await this.restart()
  }

  /** Writes at the end of what is there. Throws as `writeAtomically`, as the error is of the file and not of the connection. */
  private async write(chunk: Uint8Array): Promise<void> {
    for (let done = 0; done < chunk.length; ) {
      const writing = this.partial.write(chunk, done, chunk.length - done, this.position + done)
      done += (await writing.catch((cause: unknown) => Promise.reject(writeError(this.path, cause)))).bytesWritten
    }
  }

  private async ask(): Promise<void> {
    const { client, signal, stallMs, onBytes } = this.context
    const patience = new Patience(stallMs, signal)
    let reader: ReadableStreamDefaultReader<Uint8Array> | undefined
    try {
      // The hash is of the bytes as they are.
      const range: Record<string, string> = this.position > 0 ? { range: `bytes=${this.position}-` } : {}
      const { response, etag } = await client.get(this.address, { 'accept-encoding': 'identity', ...range }, patience.signal)
      reader = response.body?.getReader()
      await this.accept(response, etag)
      for (;;) {
        const { done, value } = (await (reader && orAborted(reader.read(), patience.signal))) ?? { done: true }
        if (done) break
        patience.renew()
        if (this.position + value.length > this.file.size) throw this.damaged('more')
        await this.write(value)
        this.hash.update(value)
        this.position += value.length
        onBytes(value.length)
      }
      if (this.position < this.file.size) throw new Transient('the end of the connection', true)
    } catch (cause) {
      throw interruption(cause, patience.signal)
    } finally {
      patience.end()
      // Not waited for, as the rest may never come.
      void reader?.cancel().catch(() => undefined)
    }
  }

  /** Asks until all bytes are there. */
  private async fill(): Promise<void> {
    for (let failures = 0; this.position < this.file.size; ) {
      const before = this.position
      try {
        await this.ask()
      } catch (error) {
        if (!(error instanceof Transient)) throw error
        failures = this.position > before ? 1 : failures + 1
        if (failures < MOST_FAILURES) await this.context.client.wait(error, failures)
        else {
          const received = `${MOST_FAILURES} times in a row nothing more than ${error.message}`
          const message = `Expected ${this.file.path} from the Hub but received ${received}; run the command again, which goes on from there`
          throw new LorafuseError('HUB_INTERRUPTED', message)
        }
      }
    }
  }

  async run(): Promise<void> {
    await this.readOn()
    const resumed = this.position > 0
    await this.fill()
    if (this.hash.digest('hex') === this.file.etag) return
    // What was left may have been damaged, as after a power failure.
    await this.restart()
    if (!resumed) throw this.damaged('another hash')
    await this.fill()
    if (this.hash.digest('hex') === this.file.etag) return
    await this.restart()
    throw this.damaged('another hash')
  }
}

/**
 * Fetches a file to the path of its blob, where it is once all of it is there, checked and synced. Throws `HUB_INTERRUPTED`, `HUB_DAMAGED`,
 * as `HubClient.get` and `writeAtomically`, and the signal's reason.
 */
export async function fetchBlob(file: HubFile, address: string, blob: string, context: Context): Promise<void> {
  const path = partialOf(blob)
  try {
    const partial = await open(path, constants.O_RDWR | constants.O_CREAT)
    try {
      await new Download(file, address, path, partial, context).run()
      await partial.sync()
    } finally {
      await partial.close()
    }
    await rename(path, blob)
  } catch (cause) {
    // Its reason may have a code, which is none of the system's.
    context.signal?.throwIfAborted()
    if ((cause as { code?: string }).code === 'HUB_DAMAGED') await rm(path, { force: true })
    throw writeError(blob, cause)
  }
  await syncFolder(dirname(blob))
}
