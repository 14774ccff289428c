#pragma once
#include <string>
using G4double = double;
using G4int = int;
using G4long = long;
using G4bool = bool;
class G4String : public std::string {
public:
    using std::string::string;
    G4String() = default;
    G4String(const std::string& text) : std::string(text) {}
};
