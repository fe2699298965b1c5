// Ranges of tensors' elements from the chunks that they lie in, each chunk decoded once.
//
// Runs of coded tensors that are wanted whole are decoded to where they are wanted; those that are scanned by columns to
// symbols, which become values on their way. Bytes of planes are decoded beside each other and joined as soon as all planes of
// an element are there; chunks are taken in the order of elements, in rounds of some megabytes of such bytes.
#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

#include "metaq/base/buffer.hpp"
#include "metaq/base/default_floats.hpp"
#include "metaq/base/heap_sort.hpp"
#include "metaq/format/cache.hpp"
#include "metaq/format/chunk.hpp"
#include "metaq/format/column_scan.hpp"
#include "metaq/format/decode_options.hpp"
#include "metaq/format/planes.hpp"
#include "metaq/format/ranges.hpp"
#include "metaq/format/sequence.hpp"
#include "metaq/format/status.hpp"
#include "metaq/format/tensors.hpp"

namespace metaq {

class Assembly {
public:
    Assembly(const FileHeader& header, const FileLayout& layout, const DecodeOptions& options)
        : header_(header), layout_(layout), options_(options) {}

    // Finds out which chunks are needed.
    FileError plan(std::span<const FileOutput> outputs) {
        if (!outputs_.reserve(outputs.size())) return of_memory();
        for (const FileOutput& output : outputs) {
            const FileError error = plan_output(output);
            if (error.status != FileStatus::ok) return error;
        }
        return sort_wants() && make_tasks() ? FileError() : of_memory();
    }

    // Decodes them and fills the outputs. `for_each(count, work)` calls work(i) for every i below count, on any threads.
    template <class ForEach>
    FileError run(const ForEach& for_each) {
        for (std::size_t first = 0; first < tasks_.size();) {
            const std::size_t end = end_of_round(first);
            for_each(end - first, [&](std::size_t i) noexcept {
                if (has_failed_.load(std::memory_order_relaxed)) return;
                const DefaultFloats floats;  // of this thread, whosever it is
                const FileError error = decode_task(tasks_[first + i]);
                if (error.status != FileStatus::ok && !has_failed_.exchange(true)) error_ = error;
            });
            if (has_failed_) return error_;
            if (!join(for_each)) return of_memory();
            finish_tasks(end);
            first = end;
        }
        return {};
    }

private:
    struct Placed {  // an output
        std::size_t tensor;
        std::uint64_t first, end;  // its elements
        std::uint8_t* bytes;
        std::size_t width;
        std::size_t first_want, end_want;
        std::uint64_t joined;  // elements before this one are there: of kept tensors
    };

    struct Want {  // a run, for an output
        std::size_t run, output;
        const std::uint8_t* content = nullptr;  // of a plane: the run's bytes, once they are decoded
    };

    struct Task {  // a chunk
        std::size_t chunk = 0;
        std::size_t first = 0, end = 0;  // its wants, in by_run_
        std::size_t tensor = 0;          // the first that it has a plane's bytes of
        std::uint64_t element = 0;
        bool has_planes = false, is_cached = false;
        bool has_rest = false;  // of runs that are not wanted whole, which may be asked for next
        DecodedChunk decoded;
    };

    struct Piece {
        std::size_t output;
        std::uint64_t first, end;
    };

    static FileError of_memory() {
        FileError error;
        error.status = FileStatus::no_memory;
        return error;
    }

    FileError plan_output(const FileOutput& output) {
        FileError error;
        error.tensor = output.index;
        error.status = FileStatus::bad_index;
        if (output.index >= header_.tensors.size()) return error;
        const std::size_t index = header_.tensors[output.index].target;
        const FileTensor& tensor = header_.tensors[index];
        const std::uint64_t size = tensor.size();
        const std::uint64_t first = std::min(output.first, size);
        const std::uint64_t count = output.count == kAllElements ? size - first : output.count;
        error.status = FileStatus::bad_elements;
        if (output.first > size || count > size - first) return error;
        const bool are_symbols = options_.content == Content::symbols && tensor.has_symbols();
        const std::size_t width = are_symbols ? sizeof(std::int32_t) : traits_of(tensor.dtype).bytes;
        error.status = FileStatus::wrong_output_size;
        if (output.bytes.size() != count * width) return error;
        Placed placed{index, first, first + count, output.bytes.data(), width, wants_.size(), 0, first};
        // Elements of all columns lie in the first rows as in the last.
        const Range scanned = tensor.is_scanned_by_columns() ? Range{0, size} : Range{first, placed.end};
        for (unsigned section = first_section(tensor); count > 0 && section < end_section(tensor); ++section) {
            for (std::size_t run = layout_.find(section, index, scanned.first); run < layout_.runs.size(); ++run) {
                const Run& found = layout_.runs[run];
                if (found.section != section || found.tensor != index || found.first() >= scanned.end) break;
                if (!wants_.append(Want{run, outputs_.size()})) return of_memory();
            }
        }
        placed.end_want = wants_.size();
        return outputs_.append(placed) ? FileError() : of_memory();
    }

    [[nodiscard]] bool sort_wants() {
        if (!by_run_.resize(wants_.size())) return false;
        for (std::size_t i = 0; i < by_run_.size(); ++i) by_run_[i] = i;
        const auto is_before = [&](std::size_t a, std::size_t b) {
            return wants_[a].run != wants_[b].run ? wants_[a].run < wants_[b].run : a < b;
        };
        if (!std::is_sorted(by_run_.begin(), by_run_.end(), is_before))
            heap_sort(by_run_.begin(), by_run_.end(), is_before);
        return true;
    }

    const Run& run_of(std::size_t want) const { return layout_.runs[wants_[want].run]; }

    bool is_by_columns(const Run& run) const { return header_.tensors[run.tensor].is_scanned_by_columns(); }

    bool is_whole(std::size_t want) const {
        const Placed& output = outputs_[wants_[want].output];
        const Run& run = run_of(want);
        if (is_by_columns(run)) return output.end - output.first == header_.tensors[run.tensor].size();
        return output.first <= run.first() && run.end() <= output.end;
    }

    bool is_for_cache(const Task& task) const { return options_.cache != nullptr && task.has_rest && fits_cache_; }

    [[nodiscard]] bool make_tasks() {
        for (std::size_t i = 0; i < by_run_.size();) {
            Task task;
            task.chunk = run_of(by_run_[i]).chunk;
            task.first = task.end = i;
            std::size_t whole = 0, last_whole = kNowhere;
            for (; task.end < by_run_.size() && run_of(by_run_[task.end]).chunk == task.chunk; ++task.end) {
                const Run& run = run_of(by_run_[task.end]);
                if (is_whole(by_run_[task.end]) && wants_[by_run_[task.end]].run != last_whole) {
                    last_whole = wants_[by_run_[task.end]].run;
                    ++whole;
                }
                if (run.section == 0) continue;
                const bool is_earlier = run.tensor < task.tensor ||
                                        (run.tensor == task.tensor && run.first() < task.element);
                if (!task.has_planes || is_earlier) {
                    task.tensor = run.tensor;
                    task.element = run.first();
                }
                task.has_planes = true;
            }
            i = task.end;
            task.has_rest = whole < layout_.runs_of(layout_.chunks[task.chunk]).size();
            task.is_cached = is_cached(task);
            if (task.is_cached) options_.cache->touch(task.chunk);
            if (!tasks_.append(std::move(task))) return false;
        }
        fits_cache_ = rest_bytes() <= options_.cache_bytes;
        heap_sort(tasks_.begin(), tasks_.end(), [](const Task& a, const Task& b) {
            if (a.has_planes != b.has_planes) return b.has_planes;
            if (a.tensor != b.tensor) return a.tensor < b.tensor;
            return a.element != b.element ? a.element < b.element : a.chunk < b.chunk;
        });
        return options_.cache == nullptr || options_.cache->reserve(layout_.chunks.size());
    }

    // Of chunks that not all is wanted of: those of a whole tensor if of one that is scanned by columns a row is.
    std::size_t rest_bytes() const {
        std::size_t size_bytes = 0;
        for (const Task& task : tasks_)
            size_bytes += task.has_rest && !task.is_cached ? 4 * layout_.chunks[task.chunk].symbols : 0;
        return size_bytes;
    }

    // Whether the cache has all that is wanted of the chunk.
    bool is_cached(const Task& task) const {
        if (options_.cache == nullptr) return false;
        const auto contents = options_.cache->find(task.chunk);
        if (contents.empty()) return false;
        return std::all_of(by_run_.begin() + task.first, by_run_.begin() + task.end, [&](std::size_t want) {
            return contents[wants_[want].run - layout_.chunks[task.chunk].first_run] != nullptr;
        });
    }

    std::size_t end_of_round(std::size_t first) const {
        std::size_t size_bytes = 0, end = first;
        for (; end < tasks_.size() && (end == first || size_bytes < options_.round_bytes); ++end) {
            if (tasks_[end].has_planes) size_bytes += layout_.chunks[tasks_[end].chunk].symbols;
        }
        return end;
    }

    FileError decode_task(Task& task) {
        if (task.is_cached) {
            hand_out(task, options_.cache->find(task.chunk));
            return {};
        }
        const PlacedChunk& chunk = layout_.chunks[task.chunk];
        ChunkDecoder decoder(header_, layout_, task.chunk, options_.content, options_.foreign);
        FileError error = decoder.fetch();
        if (error.status != FileStatus::ok) return error;
        if (options_.decoded_chunks != nullptr) ++*options_.decoded_chunks;
        Buffer<std::uint8_t*> places;
        if (!task.decoded.contents.resize(layout_.runs_of(chunk).size())) return of_memory();
        if (const std::uint8_t* bytes = decoder.borrow()) {
            for (std::size_t i = 0; i < task.decoded.contents.size(); ++i) {
                task.decoded.contents[i] = bytes;
                bytes += layout_.runs_of(chunk)[i].symbols();
            }
            task.decoded.memory = decoder.take_fetched();
            hand_out(task, task.decoded.contents);
            return {};
        }
        if (!place_runs(task, places)) return of_memory();
        error = decoder.decode(places);
        if (error.status == FileStatus::ok) hand_out(task, places);
        if (!task.has_planes && !is_for_cache(task)) task.decoded = DecodedChunk();
        return error;
    }

    // Where the runs of a chunk are decoded to: to an output that wants all of a coded one, otherwise to the chunk's memory
    // if it is wanted or kept in the cache, otherwise nowhere.
    [[nodiscard]] bool place_runs(Task& task, Buffer<std::uint8_t*>& places) {
        const PlacedChunk& chunk = layout_.chunks[task.chunk];
        const auto runs = layout_.runs_of(chunk);
        Buffer<std::size_t> offsets;  // in the memory, plus one; zero: not there
        if (!places.resize(runs.size()) || !offsets.resize(runs.size())) return false;
        std::size_t size_bytes = 0, want = task.first;
        for (std::size_t i = 0; i < runs.size(); ++i) {
            bool is_wanted = false;
            for (; want < task.end && wants_[by_run_[want]].run == chunk.first_run + i; ++want) {
                const Placed& output = outputs_[wants_[by_run_[want]].output];
                is_wanted = true;
                const bool is_for_place = runs[i].section == 0 && !is_by_columns(runs[i]) && is_whole(by_run_[want]);
                if (!is_for_place || places[i] != nullptr) continue;
                places[i] = output.bytes + (runs[i].first() - output.first) * output.width;
            }
            if (places[i] != nullptr || (!is_wanted && !is_for_cache(task))) continue;
            const std::size_t width = run_width(header_, runs[i], options_.content);
            size_bytes = (size_bytes + width - 1) / width * width;
            offsets[i] = size_bytes + 1;
            size_bytes += runs[i].symbols() * width;
        }
        if (!task.decoded.memory.resize_for_overwrite(size_bytes)) return false;
        for (std::size_t i = 0; i < runs.size(); ++i) {
            if (offsets[i] == 0) continue;
            task.decoded.contents[i] = places[i] = task.decoded.memory.data() + offsets[i] - 1;
        }
        return true;
    }

    // Values to where they are wanted, unless they are there; bytes of planes to those who join them.
    template <class Contents>
    void hand_out(const Task& task, const Contents& contents) {
        for (std::size_t i = task.first; i < task.end; ++i) {
            Want& want = wants_[by_run_[i]];
            const Run& run = layout_.runs[want.run];
            const std::uint8_t* content = contents[want.run - layout_.chunks[task.chunk].first_run];
            want.content = content;
            const Placed& output = outputs_[want.output];
            if (is_by_columns(run)) write_columns(run, content, output);
            if (run.section > 0 || is_by_columns(run)) continue;
            const std::uint64_t first = std::max(run.first(), output.first), end = std::min(run.end(), output.end);
            std::uint8_t* const place = output.bytes + (first - output.first) * output.width;
            content += (first - run.first()) * output.width;
            if (place != content) std::memcpy(place, content, (end - first) * output.width);
        }
    }

    void write_columns(const Run& run, const std::uint8_t* content, const Placed& output) const {
        const FileTensor& tensor = header_.tensors[run.tensor];
        const ColumnScan scan(*tensor.matrix, reinterpret_cast<const std::int32_t*>(content), {run.first(), run.end()},
                              output.bytes, {output.first, output.end});
        if (options_.content == Content::symbols) return scan.write_symbols();
        scan.write_values(header_.codebooks[tensor.codebook].step, tensor.dtype);
    }

    // Elements of kept tensors whose planes are all there by now. False if memory runs out.
    template <class ForEach>
    [[nodiscard]] bool join(const ForEach& for_each) {
        Buffer<Piece> pieces;
        std::uint64_t elements = 0;
        for (std::size_t i = 0; i < outputs_.size(); ++i) {
            Placed& output = outputs_[i];
            if (header_.tensors[output.tensor].has_symbols() || output.joined == output.end) continue;
            const std::uint64_t end = joinable_end(output);
            elements += end - output.joined;
            while (output.joined < end) {
                const std::uint64_t first = output.joined;
                output.joined = std::min<std::uint64_t>(end, first + options_.piece_elements);
                if (!pieces.append(Piece{i, first, output.joined})) return false;
            }
        }
        const auto work = [&](std::size_t i) noexcept { join_piece(pieces[i]); };
        if (elements > options_.piece_elements / 4) {
            for_each(pieces.size(), work);
        } else {  // threads take longer to start than to do this
            for (std::size_t i = 0; i < pieces.size(); ++i) work(i);
        }
        return true;
    }

    // The wants of each plane of an output follow each other; so do their elements.
    std::uint64_t joinable_end(const Placed& output) const {
        std::uint64_t end = output.end;
        for (std::size_t i = output.first_want; i < output.end_want; ++i) {
            const Run& run = run_of(i);
            if (wants_[i].content == nullptr && run.end() > output.joined)
                end = std::min(end, std::max(run.first(), output.joined));
        }
        return end;
    }

    void join_piece(const Piece& piece) const {
        const Placed& output = outputs_[piece.output];
        std::array<std::size_t, planes::kPlaneLimit> wants{};  // by plane: the one that has the next element
        std::size_t next = output.first_want;
        for (std::size_t plane = 0; plane < output.width; ++plane) {
            const auto ends_before = [&](const Want& want, std::size_t section) {
                const Run& run = layout_.runs[want.run];
                return run.section < section || (run.section == section && run.end() <= piece.first);
            };
            const Want* const found = std::lower_bound(wants_.begin() + next, wants_.begin() + output.end_want,
                                                       plane + 1, ends_before);
            next = wants[plane] = static_cast<std::size_t>(found - wants_.begin());
        }
        const bool is_float = traits_of(header_.tensors[output.tensor].dtype).is_float;
        for (std::uint64_t first = piece.first; first < piece.end;) {
            std::uint64_t end = piece.end;
            planes::Planes bytes{};
            for (std::size_t plane = 0; plane < output.width; ++plane) {
                while (run_of(wants[plane]).end() <= first) ++wants[plane];
                end = std::min(end, run_of(wants[plane]).end());
                bytes[plane] = wants_[wants[plane]].content + (first - run_of(wants[plane]).first());
            }
            const auto count = static_cast<std::size_t>(end - first);
            planes::join(bytes, output.width, count, is_float, output.bytes + (first - output.first) * output.width);
            first = end;
        }
    }

    // Whether nothing is left to be joined from a chunk.
    bool is_finished(const Task& task) const {
        return std::all_of(by_run_.begin() + task.first, by_run_.begin() + task.end, [&](std::size_t i) {
            const Placed& output = outputs_[wants_[i].output];
            return run_of(i).section == 0 || output.joined >= std::min(run_of(i).end(), output.end);
        });
    }

    // Lets go of what is decoded and not needed any more: to the cache, if there is one.
    void finish_tasks(std::size_t end) {
        for (std::size_t i = first_unfinished_; i < end; ++i) {
            Task& task = tasks_[i];
            if (task.decoded.contents.empty() || !is_finished(task)) continue;
            if (is_for_cache(task)) {
                options_.cache->put(task.chunk, std::move(task.decoded));
            } else {
                task.decoded = DecodedChunk();
            }
        }
        while (first_unfinished_ < end && tasks_[first_unfinished_].decoded.contents.empty()) ++first_unfinished_;
    }

    const FileHeader& header_;
    const FileLayout& layout_;
    DecodeOptions options_;
    Buffer<Placed> outputs_;
    Buffer<Want> wants_;          // by output, section and element
    Buffer<std::size_t> by_run_;  // the wants in the order of their runs
    Buffer<Task> tasks_;
    std::size_t first_unfinished_ = 0;
    bool fits_cache_ = true;  // what is decoded beside what is wanted
    std::atomic<bool> has_failed_ = false;
    FileError error_;  // of the first that failed
};

}  // namespace metaq
