/** The library: `train`, `generate`, `doctor`, and what belongs to them. Options are described in docs/options.md. */

export { type DoctorReport, doctor } from './doctor.js'
export { type GenerateContext, type GeneratedImage, type GenerateEvent, generate } from './draw/generate.js'
export { type DrawContext, type DrawRequest, Pipeline, type PipelineOptions } from './draw/pipeline.js'
export { encodePng, type Picture, readTexts } from './draw/png.js'
export { LorafuseError } from './errors.js'
export type {
  CacheEvent,
  CheckpointEvent,
  DoneEvent,
  StartEvent,
  StepEvent,
  TrainEvent,
  WarningEvent,
} from './events.js'
export { readHeader, readTensors, type SafetensorsHeader, type Tensor, type TensorEntry } from './files/safetensors.js'
export type { MemoryPlan } from './native.js'
export type { GenerateOptions, LoraReference, TrainOptions } from './options/resolve.js'
export { type TrainEvents, trainEvents } from './train/iterate.js'
export { type CurvePoint, lossCurvePng } from './train/loss-curve.js'
export { type TrainContext, type TrainResult, train } from './train/run.js'
