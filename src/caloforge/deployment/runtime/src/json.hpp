// A reader of JSON: names and words in plain letters, numbers in double.
#pragma once

#include <charconv>
#include <cmath>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "failure.hpp"

namespace caloforge::runtime {

class Json {
public:
    enum class Kind { null, boolean, number, text, list, object };

    static Json parse(std::string_view text) {
        Reader reader{text, 0};
        Json value = reader.value(0);
        reader.space();
        need(reader.at == text.size(), "something follows the JSON");
        return value;
    }

    bool is_null() const { return kind_ == Kind::null; }
    double number() const { return kind_ == Kind::number ? number_ : wrong<double>("a number"); }
    bool boolean() const { return kind_ == Kind::boolean ? number_ != 0 : wrong<bool>("true or false"); }
    const std::string& text() const {
        need(kind_ == Kind::text, "expected a text");
        return text_;
    }
    // A whole number from `low` to `high`.
    int64_t whole(int64_t low, int64_t high) const {
        const double value = number();
        need(value >= double(low) && value <= double(high) && value == std::floor(value), "a whole number is out of range");
        return int64_t(value);
    }
    const std::vector<Json>& list() const {
        need(kind_ == Kind::list, "expected a list");
        return items_;
    }
    std::vector<double> numbers(size_t count) const {
        need(list().size() == count, "a list of numbers has another length");
        std::vector<double> out;
        for (const Json& item : items_) out.push_back(item.number());
        return out;
    }
    const std::map<std::string, Json, std::less<>>& object() const {
        need(kind_ == Kind::object, "expected an object");
        return members_;
    }
    bool has(std::string_view name) const { return object().find(name) != object().end(); }
    const Json& operator[](std::string_view name) const {
        const auto found = object().find(name);
        need(found != members_.end(), "'" + std::string(name) + "' is missing");
        return found->second;
    }

private:
    struct Reader {
        std::string_view text;
        size_t at;

        void space() {
            while (at < text.size() && (text[at] == ' ' || text[at] == '\n' || text[at] == '\t' || text[at] == '\r')) ++at;
        }
        char next() {
            need(at < text.size(), "the JSON ends too early");
            return text[at++];
        }
        void expect(std::string_view word) {
            need(text.substr(at, word.size()) == word, "this is no JSON");
            at += word.size();
        }
        Json value(int depth) {
            need(depth < 32, "the JSON is nested too deeply");
            space();
            need(at < text.size(), "the JSON ends too early");
            Json out;
            switch (text[at]) {
                case '{': {
                    out.kind_ = Kind::object;
                    ++at;
                    space();
                    if (at < text.size() && text[at] == '}') return ++at, out;
                    for (;;) {
                        space();
                        std::string name = quoted();
                        space();
                        expect(":");
                        out.members_[std::move(name)] = value(depth + 1);
                        space();
                        const char mark = next();
                        if (mark == '}') return out;
                        need(mark == ',', "this is no JSON");
                    }
                }
                case '[': {
                    out.kind_ = Kind::list;
                    ++at;
                    space();
                    if (at < text.size() && text[at] == ']') return ++at, out;
                    for (;;) {
                        out.items_.push_back(value(depth + 1));
                        space();
                        const char mark = next();
                        if (mark == ']') return out;
                        need(mark == ',', "this is no JSON");
                    }
                }
                case '"':
                    out.kind_ = Kind::text;
                    out.text_ = quoted();
                    return out;
                case 't':
                    expect("true");
                    out.kind_ = Kind::boolean;
                    out.number_ = 1;
                    return out;
                case 'f':
                    expect("false");
                    out.kind_ = Kind::boolean;
                    return out;
                case 'n':
                    expect("null");
                    return out;
                default: {
                    // Not strtod, which reads commas in some countries.
                    const auto found = std::from_chars(text.data() + at, text.data() + text.size(), out.number_);
                    need(found.ec == std::errc() && std::isfinite(out.number_), "this is no JSON");
                    at = size_t(found.ptr - text.data());
                    out.kind_ = Kind::number;
                    return out;
                }
            }
        }
        std::string quoted() {
            expect("\"");
            std::string out;
            for (;;) {
                const char c = next();
                if (c == '"') return out;
                if (c != '\\') {
                    out += c;
                    continue;
                }
                const char escaped = next();
                static constexpr std::string_view kNames = "\"\\/bfnrt", kMeanings = "\"\\/\b\f\n\r\t";
                const size_t known = kNames.find(escaped);
                if (known != std::string_view::npos) {
                    out += kMeanings[known];
                    continue;
                }
                need(escaped == 'u' && text.size() - at >= 4, "this is no JSON");
                unsigned code = 0;
                const auto found = std::from_chars(text.data() + at, text.data() + at + 4, code, 16);
                need(found.ptr == text.data() + at + 4, "this is no JSON");
                at += 4;
                // What is no plain letter is in no name that is looked for.
                out += code < 128 ? char(code) : '?';
            }
        }
    };

    template <class T>
    [[noreturn]] static T wrong(const char* what) {
        throw Failure(CF_DAMAGED, std::string("expected ") + what);
    }

    Kind kind_ = Kind::null;
    double number_ = 0;
    std::string text_;
    std::vector<Json> items_;
    std::map<std::string, Json, std::less<>> members_;
};

}  // namespace caloforge::runtime
