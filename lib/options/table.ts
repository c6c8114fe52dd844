/** Every option, one row each: flags, aliases, checks, types, help and docs/options.md derive from these tables. */
import { availableParallelism } from 'node:os'
import { choice, colour, fileName, flag, integer, type Kind, list, lora, number, path, resolution, resumeFrom, text } from './values.js'

/** `default`: the option may be left out and has a value; `optional`: it may stay undefined. */
export type Presence = 'required' | 'default' | 'optional'

export interface Row<Input = unknown, Value = unknown, P extends Presence = Presence> {
  kind: Kind<Input, Value>
  presence: P
  default?: () => Value
  /** The default in words, where it is no constant. */
  defaultText?: string
  help: string
  /** kohya's names of the option (kohya-ss/sd-scripts:train_network.py, library/train_util.py). */
  kohya?: string[]
  /** Changes the result: a resumed run must have the same value. */
  fixed?: boolean
}

export type Table = Record<string, Row>

type Details = Pick<Row, 'kohya' | 'fixed' | 'defaultText'>

function required<Input, Value>(kind: Kind<Input, Value>, help: string, details: Details = {}): Row<Input, Value, 'required'> {
  return { kind, presence: 'required', help, ...details }
}

function optional<Input, Value>(kind: Kind<Input, Value>, help: string, details: Details = {}): Row<Input, Value, 'optional'> {
  return { kind, presence: 'optional', help, ...details }
}

function defaulted<Input, Value>(
  kind: Kind<Input, Value>,
  value: NoInfer<Value> | (() => Value),
  help: string,
  details: Details = {},
): Row<Input, Value, 'default'> {
  return { kind, presence: 'default', default: value instanceof Function ? value : () => value, help, ...details }
}

const machine = {
  device: defaulted(
    choice(['auto', 'cuda', 'cpu'], { gpu: 'cuda' }),
    'auto',
    'Where to compute: on the first CUDA GPU (CUDA_VISIBLE_DEVICES picks another) or the CPU; auto: on a GPU where there is one',
  ),
  precision: defaulted(
    choice(['auto', 'f32', 'fp16', 'bf16'], { no: 'f32', fp32: 'f32', f16: 'fp16' }),
    'auto',
    'On a GPU: the type of activations and frozen weights, auto is fp16, bf16 needs Ampere. On the CPU, where auto is f32 and so is arithmetic: how frozen weights are held, f32 as the file has them',
    { kohya: ['mixed_precision'], fixed: true },
  ),
  threads: defaulted(integer(1, 1024), availableParallelism, 'Worker threads; the result does not depend on it', {
    defaultText: 'all processors',
  }),
}

const files = {
  model: required(path, 'Stable Diffusion 1.x model: a folder in the diffusers layout', { kohya: ['pretrained_model_name_or_path'] }),
  images: required(path, 'Folder of images with .txt or .caption captions beside them, or of N_class folders (N repeats)', {
    kohya: ['train_data_dir'],
  }),
  output: defaulted(path, 'output', 'Folder for the LoRA, its checkpoints and their states', { kohya: ['output_dir'] }),
  name: defaulted(fileName, 'lora', 'Name of the LoRA: its file is <output>/<name>.safetensors', { kohya: ['output_name'] }),
}

const data = {
  resolution: defaulted(resolution, 512, 'Side in pixels of the square whose area no bucket exceeds', {
    kohya: ['resolution'],
    fixed: true,
  }),
  buckets: defaulted(flag, true, 'Train each image near its own aspect ratio; off: all at the square', {
    kohya: ['enable_bucket'],
    fixed: true,
  }),
  bucketMin: defaulted(integer(8, 8192), 256, 'Shortest side of a bucket, in pixels', { kohya: ['min_bucket_reso'], fixed: true }),
  bucketMax: defaulted(integer(8, 8192), 1024, 'Longest side of a bucket, in pixels', { kohya: ['max_bucket_reso'], fixed: true }),
  bucketStep: defaulted(integer(8, 1024, 8), 64, 'Sides of buckets are multiples of it, in pixels', {
    kohya: ['bucket_reso_steps'],
    fixed: true,
  }),
  bucketNoUpscale: defaulted(flag, false, 'Never enlarge an image: its bucket is its own size', {
    kohya: ['bucket_no_upscale'],
    fixed: true,
  }),
  randomCrop: defaulted(flag, false, 'Crop where the seed says instead of at the centre', { kohya: ['random_crop'], fixed: true }),
  flip: defaulted(flag, false, 'Mirror images at random', { kohya: ['flip_aug'], fixed: true }),
  background: defaulted(colour, [255, 255, 255], 'What shows through transparent pixels: white, black or #rrggbb', {
    defaultText: 'white',
    fixed: true,
  }),
  captionExtension: optional(text, 'Extension of caption files', { defaultText: '.txt, else .caption', kohya: ['caption_extension'] }),
  strict: defaulted(flag, false, 'Refuse the folder where a file would be skipped'),
}

const training = {
  steps: defaulted(integer(1), 1600, 'Optimizer updates', { kohya: ['max_train_steps'] }),
  epochs: optional(integer(1), 'Passes over the images, instead of steps', { kohya: ['max_train_epochs'] }),
  batchSize: defaulted(integer(1, 1024), 1, 'Images a forward pass takes', { kohya: ['train_batch_size'], fixed: true }),
  gradientAccumulation: defaulted(integer(1, 1024), 1, 'Batches an update takes', { kohya: ['gradient_accumulation_steps'], fixed: true }),
  rank: defaulted(integer(1, 4096), 16, 'Rank of the LoRA', { kohya: ['network_dim'], fixed: true }),
  alpha: optional(number(0, 1e6), 'The LoRA is scaled by alpha / rank; 0 means the rank', {
    defaultText: 'the rank',
    kohya: ['network_alpha'],
    fixed: true,
  }),
  targets: defaulted(
    choice(['default', 'attention']),
    'default',
    "default, as kohya: attention, feed-forward and projections of the UNet's transformers; attention: q, k, v, out alone",
    { fixed: true },
  ),
  learningRate: defaulted(number(0, 1), 1e-4, 'Learning rate', { kohya: ['learning_rate'], fixed: true }),
  lrScheduler: defaulted(
    choice(['constant', 'cosine'], { constant_with_warmup: 'constant' }),
    'constant',
    'Learning rate after the warm-up; cosine falls to 0',
    { kohya: ['lr_scheduler'], fixed: true },
  ),
  lrWarmupSteps: defaulted(integer(0), 0, 'Updates over which the learning rate rises from 0', { kohya: ['lr_warmup_steps'], fixed: true }),
  weightDecay: defaulted(number(0, 1), 0.01, "AdamW's weight decay", { fixed: true }),
  maxGradNorm: defaulted(number(0, 1e9), 1, 'Gradients are scaled down to this global L2 norm; 0: never', {
    kohya: ['max_grad_norm'],
    fixed: true,
  }),
  clipSkip: defaulted(integer(1, 64), 1, 'Take the text from this layer, counted from the last', { kohya: ['clip_skip'], fixed: true }),
  seed: defaulted(integer(0, 2 ** 32 - 1), 0, 'Start of all that is random', { kohya: ['seed'], fixed: true }),
}

const saving = {
  saveEvery: defaulted(integer(0), 500, 'Write a checkpoint and its state after every so many updates; 0: never', {
    kohya: ['save_every_n_steps'],
  }),
  saveEveryEpochs: optional(integer(1), 'Write a checkpoint and its state after every so many epochs', { kohya: ['save_every_n_epochs'] }),
  savePrecision: defaulted(
    choice(['fp16', 'bf16', 'f32'], { float: 'f32', fp32: 'f32', f16: 'fp16' }),
    'fp16',
    'Numbers of the LoRA file',
    { kohya: ['save_precision'] },
  ),
  resume: optional(resumeFrom, 'Go on from a state file; without a value: from the newest state of this name in the output folder', {
    kohya: ['resume'],
  }),
}

/** Titles and rows, in the order of help and docs. */
export const trainGroups = { Files: files, Images: data, Training: training, Saving: saving, Machine: machine }
export const trainTable = { ...files, ...data, ...training, ...saving, ...machine }

const precision = { ...machine.precision, fixed: false }
const picture = {
  model: files.model,
  prompt: required(list(text), 'What to draw; repeat it for several. <lora:name:0.8> in it applies a LoRA to it'),
  negativePrompt: defaulted(text, '', 'What to keep away from'),
  lora: defaulted(list(lora), [], 'LoRA file to apply, with a weight as in file:0.8; repeat it to stack several', { defaultText: 'none' }),
  loraDir: optional(path, 'Folder where <lora:name:1> looks for name.safetensors', {
    defaultText: "the picture's folder, the current one, output",
  }),
  compare: defaulted(flag, false, 'One picture, a row per prompt: without and with the LoRAs side by side'),
  output: optional(path, 'PNG to write; several prompts without compare are numbered. The library writes none by default', {
    defaultText: 'image.png',
  }),
}

const sampling = {
  steps: defaulted(integer(1, 1000), 30, 'DDIM steps'),
  cfg: defaulted(number(1, 100), 7, 'Classifier-free guidance scale; 1: none'),
  seed: defaulted(integer(0, 2 ** 32 - 1), 0, 'Start of the noise'),
  width: optional(integer(8, 8192, 8), 'In pixels', { defaultText: "the model's own" }),
  height: optional(integer(8, 8192, 8), 'In pixels', { defaultText: "the model's own" }),
  clipSkip: defaulted(integer(1, 64), 1, 'Take the text from this layer, counted from the last', { kohya: ['clip_skip'] }),
}

export const generateGroups = {
  Picture: picture,
  Sampling: sampling,
  Machine: { device: machine.device, precision, threads: machine.threads },
}
export const generateTable = { ...picture, ...sampling, device: machine.device, precision, threads: machine.threads }

const common = {
  json: defaulted(flag, false, 'Events as JSON, one a line on stdout, instead of progress on stderr'),
  help: defaulted(flag, false, 'Show this'),
}

/** Options that only the command line has. */
export const commandLine = {
  train: { lossCurve: optional(path, 'PNG of the losses', { defaultText: '<output>/<name>-loss.png' }), ...common },
  generate: common,
  doctor: { ...common, json: { ...common.json, help: 'The report as JSON' } },
}
