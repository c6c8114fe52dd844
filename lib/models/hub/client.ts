/**
 * Requests to the Hub. `@huggingface/hub` asks for listings through `fetch` of this client; files are asked for directly, since that package
 * neither resumes, nor checks ranges and hashes, nor tells why the Hub refuses.
 */
import { setTimeout } from 'node:timers/promises'
import { cut, LorafuseError, shown } from '../../errors.js'
import { isCount, isRecord } from '../../files/json.js'
import { version } from '../../version.js'
import { COMMIT, type HubFile } from './cache.js'
import type { HubSettings } from './settings.js'

/** A failure that may be over the next time. */
export class Transient extends Error {
  /** `waitMs`: what the server asks for; `connected`: whether there was an answer at all. */
  constructor(
    reason: string,
    readonly connected: boolean,
    readonly waitMs = 0,
  ) {
    super(reason)
  }
}

const MOST_REDIRECTS = 10
/** How often a listing is asked for. */
const MOST_TRIES = 4
const LONGEST_WAIT_MS = 60_000
/** What is said about a repository is shorter, and its listing has fewer pages and files. */
const MOST_REPLY_BYTES = 2 ** 25
const MOST_PAGES = 2 ** 10
const MOST_FILES = 2 ** 18
const NOT_CONNECTED = ['ENOTFOUND', 'EAI_AGAIN', 'ECONNREFUSED', 'EHOSTUNREACH', 'ENETUNREACH', 'ENETDOWN', 'UND_ERR_CONNECT_TIMEOUT']
const BLOB = /^([0-9a-f]{40}|[0-9a-f]{64})$/

/** Waits; throws the signal's reason. */
async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  await setTimeout(ms, undefined, { signal }).catch(() => signal?.throwIfAborted())
}

function failed(problem: string): LorafuseError {
  return new LorafuseError('HUB_FAILED', `${problem}; try again later, or fetch the model yourself and give its path`)
}

/** The code of what ended a connection, or its message. */
function reasonOf(cause: unknown): string {
  const { code, message, cause: deeper, errors } = cause as NodeJS.ErrnoException & { errors?: unknown[] }
  if (deeper !== undefined) return reasonOf(deeper)
  return code ?? (errors?.[0] === undefined ? cut(message || String(cause)) : reasonOf(errors[0]))
}

/** Turns what ended a connection into a `Transient`; what has a meaning of its own stays, and the signal's reason comes first. */
export function interruption(cause: unknown, signal: AbortSignal | undefined): unknown {
  if (signal?.aborted) return signal.reason
  if (cause instanceof LorafuseError || cause instanceof Transient) return cause
  const reason = reasonOf(cause)
  return new Transient(reason, !NOT_CONNECTED.includes(reason) && !/CERT|SSL|TLS/.test(reason))
}

/** Waits, but no longer than until the signal aborts: a body whose end has come may never tell of it (undici 6). */
export async function orAborted<Result>(work: Promise<Result>, signal: AbortSignal): Promise<Result> {
  let stop = () => {}
  const aborted = new Promise<never>((_, reject) => {
    stop = () => reject(signal.reason)
    if (signal.aborted) stop()
    else signal.addEventListener('abort', stop)
  })
  return Promise.race([work, aborted]).finally(() => signal.removeEventListener('abort', stop))
}

/** Stops what gets no data for too long. */
export class Patience {
  private readonly controller = new AbortController()
  readonly signal: AbortSignal
  private timer: NodeJS.Timeout | undefined

  constructor(
    private readonly ms: number,
    signal: AbortSignal | undefined,
  ) {
    this.signal = AbortSignal.any([this.controller.signal, ...(signal ? [signal] : [])])
    this.renew()
  }

  renew(): void {
    clearTimeout(this.timer)
    this.timer = global.setTimeout(() => this.controller.abort(new Transient(`no data for ${this.ms / 1000} s`, true)), this.ms)
  }

  end(): void {
    clearTimeout(this.timer)
  }
}

export class HubClient {
  constructor(
    private readonly settings: HubSettings,
    private readonly repository: string,
    private readonly signal: AbortSignal | undefined,
  ) {}

  /** Why the Hub does not give what was asked for, from its `X-Error-…` headers (huggingface_hub:utils/_http.py). */
  private refusal({ status, headers }: Response): LorafuseError | Transient {
    const { repository, settings } = this
    const { endpoint, token } = settings
    const page = `${endpoint}/${repository}`
    const [code, said] = [headers.get('x-error-code'), headers.get('x-error-message') ?? '']
    if (status === 408 || status === 429 || status >= 500) {
      const wait = Math.min(Number(headers.get('retry-after')) * 1000 || 0, LONGEST_WAIT_MS)
      return new Transient(`status ${status}`, true, wait)
    }
    if (code === 'GatedRepo') {
      const advice = token === undefined ? 'and set HF_TOKEN' : 'with the account of your HF_TOKEN'
      return new LorafuseError('HUB_DENIED', `Expected access to ${repository} but it is gated; accept its licence at ${page} ${advice}`)
    }
    if (code === 'RevisionNotFound') return this.missing('a revision of this name')
    if (code === 'EntryNotFound') return this.missing('this file')
    if (status === 401 && token !== undefined && code !== 'RepoNotFound') {
      return new LorafuseError('HUB_DENIED', `Expected a token that ${endpoint} accepts but received another; renew or unset HF_TOKEN`)
    }
    if (status === 401 || status === 404) {
      const advice = token === undefined ? 'set HF_TOKEN if it is private' : 'use the token of an account that may see it if it is private'
      const missing = `Expected a model ${repository} in this folder or on ${endpoint} but received none`
      return new LorafuseError('HUB_NOT_FOUND', `${missing}; correct the name, or ${advice}`)
    }
    if (status === 403) {
      const reason = said === '' ? 'a refusal' : shown(said)
      return new LorafuseError('HUB_DENIED', `Expected access to ${repository} on ${endpoint} but received ${reason}; see ${page}`)
    }
    return failed(`Expected ${repository} from ${endpoint} but received status ${status}${said === '' ? '' : `, ${shown(said)}`}`)
  }

  private missing(what: string): LorafuseError {
    const { repository, settings } = this
    const message = `Expected ${what} in ${repository} on ${settings.endpoint} but received none; correct the name`
    return new LorafuseError('HUB_NOT_FOUND', message)
  }

  /**
   * Asks for an address, following redirects; token and login go to the endpoint alone. Returns the answer, and the etag of the file that the
   * Hub said on the way. Throws `HUB_NOT_FOUND`, `HUB_DENIED`, `HUB_FAILED`, `Transient`, or the signal's reason.
   */
  async get(address: string, headers: Record<string, string>, signal = this.signal): Promise<{ response: Response; etag?: string }> {
    const { endpoint, token, login } = this.settings
    const own = new URL(endpoint).origin
    const credentials = login === undefined ? token && `Bearer ${token}` : `Basic ${Buffer.from(login).toString('base64')}`
    let url = new URL(address)
    let etag: string | undefined
    for (let hop = 0; hop <= MOST_REDIRECTS; hop++) {
      const authorization: Record<string, string> = credentials && url.origin === own ? { authorization: credentials } : {}
      const sent = { 'user-agent': `lorafuse/${version()}`, ...headers, ...authorization }
      const response = await fetch(url, { headers: sent, redirect: 'manual', signal: signal ?? null }).catch((cause: unknown) => {
        throw interruption(cause, signal)
      })
      etag ??= /^(?:W\/)?"(.*)"$/.exec(response.headers.get('x-linked-etag') ?? '')?.[1]
      const location = response.headers.get('location')
      const redirects = response.status >= 300 && response.status < 400 && location !== null
      if (response.ok) return etag === undefined ? { response } : { response, etag }
      await response.body?.cancel().catch(() => undefined)
      if (!redirects) throw this.refusal(response)
      if (!URL.canParse(location, url.href) || !/^https?:$/.test(new URL(location, url).protocol)) break
      const next = new URL(location, url)
      // The listing holds the hashes that files are checked by.
      if (url.protocol === 'https:' && next.protocol !== 'https:') break
      url = next
    }
    throw failed(`Expected ${this.repository} from ${endpoint} but received redirects that lead nowhere`)
  }

  private excess(most: string): LorafuseError {
    const { repository, settings } = this
    return failed(`Expected at most ${most} about ${repository} from ${settings.endpoint} but received more`)
  }

  /** Reads an answer as a whole. */
  private async whole({ body }: Response, patience: Patience): Promise<Blob> {
    const reader = body?.getReader()
    const pieces: Uint8Array<ArrayBuffer>[] = []
    let length = 0
    try {
      for (;;) {
        const { done, value } = (await (reader && orAborted(reader.read(), patience.signal))) ?? { done: true }
        if (done) return new Blob(pieces)
        patience.renew()
        length += value.length
        if (length > MOST_REPLY_BYTES) throw this.excess(`${MOST_REPLY_BYTES / 2 ** 20} MiB`)
        pieces.push(value)
      }
    } finally {
      void reader?.cancel().catch(() => undefined)
    }
  }

  /** `fetch` for `@huggingface/hub`: gets an answer as a whole. */
  private readonly fetch: typeof fetch = async (input, init) => {
    const patience = new Patience(this.settings.stallMs, this.signal)
    try {
      const { response } = await this.get(String(input), { ...(init?.headers as Record<string, string>) }, patience.signal)
      return new Response(await this.whole(response, patience), { headers: response.headers })
    } catch (cause) {
      throw interruption(cause, patience.signal)
    } finally {
      patience.end()
    }
  }

  /** Asks again where that may help. */
  private async persist<Result>(ask: () => Promise<Result>): Promise<Result> {
    for (let tries = 1; ; tries++) {
      try {
        return await ask()
      } catch (error) {
        this.signal?.throwIfAborted()
        if (error instanceof SyntaxError || error instanceof TypeError)
          throw failed(`Expected a listing of ${this.repository} but received none`)
        if (!(error instanceof Transient)) throw error
        if (!error.connected || tries >= MOST_TRIES) throw this.unreachable(error)
        await this.wait(error, tries)
      }
    }
  }

  /** Waits before the next of several tries. */
  async wait({ waitMs }: Transient, tries: number): Promise<void> {
    await pause(Math.max(waitMs, this.settings.retryMs * 2 ** (tries - 1)), this.signal)
  }

  private unreachable({ message, connected }: Transient): LorafuseError {
    const { endpoint } = this.settings
    const expected = `Expected an answer from ${endpoint} about ${this.repository}, which is no path here either, but received ${message}`
    if (connected) return failed(expected)
    const proxy = process.env.HTTPS_PROXY ?? process.env.https_proxy
    const advice = proxy
      ? 'Node heeds HTTPS_PROXY from 22.21 and 24.5 on, with NODE_USE_ENV_PROXY=1'
      : 'connect to the network, or set HF_ENDPOINT'
    return new LorafuseError('HUB_UNREACHABLE', `${expected}; ${advice}`)
  }

  /** Returns the commit of a revision, and the class of diffusers that draws with it. Throws as `get`, and `HUB_UNREACHABLE`. */
  async about(revision: string): Promise<{ commit: string; pipeline: string | undefined }> {
    const { modelInfo } = await import('@huggingface/hub')
    const [name, hubUrl] = [this.repository, this.settings.endpoint]
    const ask = () => modelInfo({ name, revision, hubUrl, fetch: this.fetch, additionalFields: ['sha', 'config'] })
    const { sha, config } = await this.persist(ask)
    const { _class_name: pipeline } = (isRecord(config) && isRecord(config.diffusers) ? config.diffusers : {}) as { _class_name?: unknown }
    if (typeof sha === 'string' && COMMIT.test(sha)) return { commit: sha, pipeline: typeof pipeline === 'string' ? pipeline : undefined }
    throw failed(`Expected the commit of ${this.repository} from ${hubUrl} but received ${shown(sha)}`)
  }

  /** Lists the files of a commit. Throws as `about`. */
  async filesOf(commit: string): Promise<Map<string, HubFile>> {
    const { listFiles } = await import('@huggingface/hub')
    const repo = { type: 'model', name: this.repository } as const
    return this.persist(async () => {
      const files = new Map<string, HubFile>()
      let [pages, entries] = [0, 0]
      const fetch: typeof this.fetch = (...call) => {
        if (++pages > MOST_PAGES) throw this.excess(`${MOST_PAGES} pages of files`)
        return this.fetch(...call)
      }
      for await (const entry of listFiles({ repo, revision: commit, recursive: true, hubUrl: this.settings.endpoint, fetch })) {
        if (++entries > MOST_FILES) throw this.excess(`${MOST_FILES} files`)
        const { type, path, oid, lfs } = entry
        const [etag, size] = [lfs?.oid ?? oid, lfs?.size ?? entry.size]
        // Names of blobs become names of files.
        const isKnown = typeof path === 'string' && typeof etag === 'string' && BLOB.test(etag) && isCount(size)
        if (type === 'file' && isKnown) files.set(path, { path, size, etag })
      }
      return files
    })
  }

  /** The address of a file's content. */
  address(commit: string, path: string): string {
    return `${this.settings.endpoint}/${this.repository}/resolve/${commit}/${path.split('/').map(encodeURIComponent).join('/')}`
  }
}
